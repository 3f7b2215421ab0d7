"""Examples: what `lfsfs COMMAND --help` shows last, a command line that one can type. Each stands for itself: no store
of a configuration file, no variable is meant beside it.
"""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "mount": (
        "lfsfs mount ~/lfs-store ~/lfs",
        "lfsfs mount ~/lfs-store ~/lfs --s3 s3://my-bucket/lfs --cache-size 50GiB",
        "lfsfs mount ~/lfs-store ~/lfs --listen 127.0.0.1:8080",
    ),
    "unmount": ("lfsfs unmount ~/lfs", "lfsfs unmount ~/lfs --wait"),
    "serve": ("lfsfs serve ~/lfs-store --listen 127.0.0.1:8080", "lfsfs serve ~/lfs-store --stop"),
    "restart": ("lfsfs restart ~/lfs", "lfsfs restart --config /etc/lfsfs/studio.toml"),
    "attach": (
        "lfsfs attach",
        "lfsfs attach ~/work/game --name game --mount ~/lfs",
        "lfsfs attach --all ~/work",
    ),
    "import": (
        "lfsfs import ~/work",
        "lfsfs import --dry-run /var/opt/gitlab/gitlab-rails/shared/lfs-objects",
        "lfsfs import s3://old-bucket/lfs --s3-endpoint https://s3.example.org --repo /studio/game",
    ),
    "export": (
        "lfsfs export ~/old-lfs",
        "lfsfs export /var/lib/gitea/data/lfs --layout gitea",
        "lfsfs export s3://new-bucket/lfs --layout giftless --repo game --project studio/game",
    ),
    "detach": ("lfsfs detach ~/work/game",),
    "transfer-agent": ("lfsfs transfer-agent --store /srv/lfs-store",),
    "put": ("lfsfs put model.bin textures/*.png", "tar c photos | lfsfs put -"),
    "get": ("lfsfs get 4bf5122f -o model.bin",),
    "stat": ("lfsfs stat 4bf5122f",),
    "rm": ("lfsfs rm 4bf5122f",),
    "ls": ("lfsfs ls --sort size --reverse --limit 20", "lfsfs ls --type image/ --since 7d --json"),
    "gc": ("lfsfs gc", "lfsfs gc --yes --grace 30d"),
    "why": ("lfsfs why 4bf5122f",),
    "trash": ("lfsfs trash --since 2h",),
    "undelete": ("lfsfs undelete 4bf5122f", "lfsfs undelete --all --since 2h"),
    "vacuum": ("lfsfs vacuum", "lfsfs vacuum --trash-time 30d"),
    "scan": ("lfsfs scan", "lfsfs scan --list"),
    "embed": ("lfsfs embed put vectors.npy", "lfsfs embed search --like query.npy -k 5"),
    "embed put": (
        "lfsfs embed put vectors.npy",
        "lfsfs embed put --hash 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a one.npy",
    ),
    "embed get": (
        "lfsfs embed get 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a -o one.npy",
    ),
    "embed ls": ("lfsfs embed ls --collection faces --limit 20", "lfsfs embed ls --collections"),
    "embed stats": ("lfsfs embed stats --collection faces",),
    "embed search": ("lfsfs embed search --like query.npy -k 5",),
    "embed export": ("lfsfs embed export faces.safetensors --collection faces",),
    "embed import": ("lfsfs embed import old-vectors/ --collection faces",),
    "embed orphans": (
        "lfsfs embed orphans --referenced hashes.txt",
        "lfsfs embed orphans --referenced - --delete",
    ),
    "embed rm": ("lfsfs embed rm 4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a",),
    "embed vacuum": ("lfsfs embed vacuum",),
    "embed track": ("lfsfs embed track ~/work/game --collection faces", "lfsfs embed track --all"),
    "embed untrack": ("lfsfs embed untrack ~/work/game",),
    "sync": ("lfsfs sync --wait --timeout 600",),
    "pin": ("lfsfs pin 4bf5122f", "lfsfs pin --repo game"),
    "unpin": ("lfsfs unpin --repo game",),
    "prefetch": ("lfsfs prefetch --repo game",),
    "key": ("lfsfs key new ~/lfs.key", "lfsfs key show"),
    "key new": ("lfsfs key new ~/lfs.key",),
    "key show": ("lfsfs key show",),
    "key rotate": ("lfsfs key rotate --to file:/etc/lfsfs/new.key", "lfsfs key rotate --add"),
    "encrypt": (
        "lfsfs encrypt --store ~/lfs-store",
        "lfsfs encrypt --store ~/lfs-store --store-key file:/etc/lfsfs/store.key",
    ),
    "decrypt": ("lfsfs decrypt --store ~/lfs-store",),
    "unlock": ("lfsfs unlock /srv/lfs-store --key file:/root/lfs.key",),
    "lock": ("lfsfs lock /srv/lfs-store",),
    "verify": ("lfsfs verify", "lfsfs verify --time 10m --resume"),
    "fsck": ("lfsfs fsck", "lfsfs fsck --repair --store ~/lfs-store"),
    "index": ("lfsfs index rebuild --store ~/lfs-store",),
    "index rebuild": (
        "lfsfs index rebuild --store ~/lfs-store",
        "lfsfs index rebuild --store ~/lfs-store --s3 s3://my-bucket/lfs",
    ),
    "doctor": ("lfsfs doctor s3://my-bucket/lfs --s3-endpoint https://s3.example.org",),
    "status": ("lfsfs status", "lfsfs status --json"),
    "stats": ("lfsfs stats", "lfsfs stats --plot store.svg"),
    "top": ("lfsfs top", "lfsfs top --once --json"),
    "completion": ("lfsfs completion bash > ~/.local/share/bash-completion/completions/lfsfs",),
    "user": ("lfsfs user add ada --role 'write=studio/*'", "lfsfs user ls"),
    "user add": ("lfsfs user add ada --role 'write=studio/*'",),
    "user password": ("lfsfs user password ada",),
    "user ls": ("lfsfs user ls --store /srv/lfs-store",),
    "user rm": ("lfsfs user rm ada",),
    "user grant": ("lfsfs user grant ada write 'studio/*'", "lfsfs user grant anonymous read studio/game"),
    "user revoke": ("lfsfs user revoke ada 'studio/*'",),
    "user token": ("lfsfs user token ada --name ci --role read --expires 90d",),
    "ssh-session": ("lfsfs ssh-session --user ada --store /srv/lfs-store",),
}
"""By command: what one types, without what the shell makes of it."""


def shown(command: str) -> str:
    """The end of the command's help; empty where it has no example."""
    found = EXAMPLES.get(command, ())
    return (
        "".join(["\nexamples:\n" if len(found) > 1 else "\nexample:\n", *(f"  {line}\n" for line in found)])
        if found
        else ""
    )
