"""The configuration file: all of it is understood, or is an error that helps. And the units of people."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from lfsfs import config_file
from lfsfs.config import (
    CacheOptions,
    Config,
    MountOptions,
    S3Options,
    S3Url,
    ScrubOptions,
    ServerOptions,
    parse_s3_url,
)
from lfsfs.config_access import AccessOptions, ForgeOptions, JwtOptions
from lfsfs.config_file import configure, policy_of, read_file, render_policy
from lfsfs.config_policy import LimitOptions, PermissionOptions, Policy, QuotaOptions, ScanOptions
from lfsfs.errors import InvalidConfig

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "some.toml"
        file.write_text(text)
        return file

    return write


EVERYTHING = """
[store]
path = "/srv/store"
durability = "fast"
temp = "/fast/tmp"

[mount]
mountpoint = "/mnt/lfs"
uid = 1000
gid = 0
umask = "027"
allow_other = true
xattr = true
read_only = true
noexec = true
sharing = "isolated"
delete = "allow"
incomplete_age = "36h"

[s3]
url = "s3://games/lfs/team-a"
endpoint = "http://127.0.0.1:9000/"
region = "eu-west-1"
access_key_id = "AKIA"
secret_access_key = "secret"
session_token = "token"
addressing = "virtual"
ca_bundle = "/etc/ssl/ca.pem"
storage_class = "STANDARD_IA"
sse = "kms"
kms_key = "key-1"
layout = "flat"
connect_timeout = "2s"
read_timeout = "1m"
connections = 40
part_size = "32MiB"

[access]
users = "/etc/users.toml"
htpasswd = "/etc/htpasswd"
attempts = 3
attempts_window = "5m"
ssh_root = "/srv/git"
ssh_lifetime = "1m"

[jwt]
keys = "/etc/jwks.json"
issuer = "https://id.example.org"
audience = "lfs"
algorithms = ["EdDSA"]
user = "email"
roles = "lfs"
leeway = "1s"

[forge]
url = "https://api.github.com/"
kind = "github"
timeout = "2s"
cache = "10s"
ca_bundle = "/etc/ssl/forge.pem"

[limits]
object_size = "1GiB"
objects = 7
names = 6
path_length = 5
open_uploads = 4
free_space = "3MB"

[quota]
store = "2GiB"
repository = "1MiB"
repositories = { films = "2MiB", "/team/web" = "512" }

[scan]
clamd = "unix:/run/clamd.ctl"
when = "after"
unreachable = "accept"
timeout = "5s"
size = "20MiB"
verdict_age = "1d"
parallel = 2

[permissions]
admins = ["root"]
writers = ["@artists", "1000"]
readers = ["*"]

[log]
level = "debug"
size = "1MiB"
"""


def test_every_key_of_the_file_reaches_the_configuration(write: Write) -> None:
    found = configure(write(EVERYTHING), {})
    assert found == Config(
        store=Path("/srv/store"),
        mountpoint=Path("/mnt/lfs"),
        durability="fast",
        mount=MountOptions(1000, 0, 0o027, True, True, True, True, "isolated", "allow", 36 * 3600.0),
        s3=S3Options(
            S3Url("games", "lfs/team-a"),
            endpoint="http://127.0.0.1:9000",
            region="eu-west-1",
            access_key_id="AKIA",
            secret_access_key="secret",
            session_token="token",
            addressing="virtual",
            ca_bundle=Path("/etc/ssl/ca.pem"),
            storage_class="STANDARD_IA",
            sse="kms",
            kms_key="key-1",
            layout="flat",
            connect_timeout=2.0,
            read_timeout=60.0,
            connections=40,
            part_size=32 << 20,
        ),
        access=AccessOptions(
            Path("/etc/users.toml"),
            Path("/etc/htpasswd"),
            JwtOptions(
                Path("/etc/jwks.json"), "https://id.example.org", "lfs", ("EdDSA",), "email", "lfs", 1.0
            ),
            ForgeOptions("https://api.github.com", "github", 2.0, 10.0, Path("/etc/ssl/forge.pem")),
            3,
            300.0,
            Path("/srv/git"),
            60.0,
        ),
        policy=Policy(
            LimitOptions(1 << 30, 7, 6, 5, 4, 3_000_000),
            QuotaOptions(2 << 30, 1 << 20, {"films": 2 << 20, "/team/web": 512}),
            ScanOptions("unix:/run/clamd.ctl", (), "after", "accept", 5.0, 20 << 20, 86400.0, 2),
        ),
        permissions=PermissionOptions(("root",), ("@artists", "1000"), ("*",)),
        log_level="debug",
        log_size=1 << 20,
        temp=Path("/fast/tmp"),
        foreground=False,
    )


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://b1", "b1", ""),
        ("s3://b1/", "b1", ""),
        ("s3://my.bucket/a", "my.bucket", "a"),
        ("s3://my-bucket/a/b c/ü/", "my-bucket", "a/b c/ü"),
    ],
)
def test_an_s3_address_is_a_bucket_and_a_prefix_without_outer_slashes(
    text: str, bucket: str, prefix: str
) -> None:
    assert parse_s3_url(text) == S3Url(bucket, prefix)
    assert parse_s3_url(str(S3Url(bucket, prefix))) == S3Url(bucket, prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "s3:b",
        "s3://",
        "s3:///p",
        "http://b/p",
        "s3://b u/p",
        "s3://b1//p/../q",
        "s3://b1/a//b",
        "s3://b1/./a",
        "s3://b1/a\nb",
        f"s3://b1/{'a' * 801}",
    ],
)
def test_what_is_no_s3_address_is_told(text: str) -> None:
    with pytest.raises(InvalidConfig, match="not an S3 address"):
        parse_s3_url(text)


def test_a_name_that_no_bucket_has_is_told() -> None:
    with pytest.raises(InvalidConfig, match="no bucket is called 'b': it has letters"):
        parse_s3_url("s3://b/p")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('endpoint = "localhost:9000"', "http://HOST:PORT"),
        ("connections = 0", "a number from 1 to 1000"),
        ('part_size = "4MiB"', "from 5MiB to 5GiB"),
        ('read_timeout = "0s"', "a time above 0"),
        ('region = ""', "a text"),
        ('region = "eu-west-1"', "there are S3 options, but no address"),
        ('url = "s3://b1"\naccess_key_id = "a"', "go together"),
        ('url = "s3://b1"\nsession_token = "a"', "needs access_key_id"),
        ('url = "s3://b1"\nkms_key = "a"', 'needs sse = "kms"'),
        ('url = "s3://b1"\nsse = "c"', "go together"),
    ],
)
def test_s3_options_that_do_not_fit_are_told(write: Write, text: str, said: str) -> None:
    given = {"store.path": Path("/s"), "mount.mountpoint": Path("/m")}
    with pytest.raises(InvalidConfig, match=said):
        configure(write(f"[s3]\n{text}"), given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[jwt]\nkeys = "/k"', "keys, issuer and audience in .jwt. go together"),
        ('[forge]\nkind = "github"', "give url in .forge."),
    ],
)
def test_options_of_an_issuer_or_a_forge_that_do_not_fit_are_told(write: Write, text: str, said: str) -> None:
    given = {"store.path": Path("/s"), "mount.mountpoint": Path("/m")}
    with pytest.raises(InvalidConfig, match=said):
        configure(write(text), given)


def test_secrets_are_not_shown() -> None:
    shown = repr(S3Options(S3Url("b"), access_key_id="a", secret_access_key="hidden", session_token="hidden"))
    assert "hidden" not in shown


def documented(text: str) -> str:
    """The TOML that is indented in a text."""
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(lines)


def test_the_text_at_the_top_of_the_module_has_every_key_and_the_true_defaults(write: Write) -> None:
    assert config_file.__doc__ is not None
    settings = dict(read_file(write(documented(config_file.__doc__))))
    examples = {"store.path", "store.temp", "store.encryption_key"}
    examples |= {"mount.mountpoint", "mount.uid", "mount.gid"}
    s3 = S3Options(S3Url("bucket", "prefix"))
    examples |= {f"s3.{option.name}" for option in fields(S3Options) if getattr(s3, option.name) is None}
    options = {f"s3.{option.name}": getattr(s3, option.name) for option in fields(S3Options)}
    options |= {
        f"mount.{option.name}": getattr(MountOptions(), option.name) for option in fields(MountOptions)
    }
    examples.add("cache.pending_size")
    options |= {
        f"cache.{option.name}": getattr(CacheOptions(), option.name) for option in fields(CacheOptions)
    }
    server = {
        f"server.{option.name}": getattr(ServerOptions(), option.name) for option in fields(ServerOptions)
    }
    examples |= {key for key, value in server.items() if value in (None, ())}
    options |= server
    for section, kind in (
        ("access", AccessOptions()),
        ("jwt", JwtOptions(Path("/k"), "issuer", "audience")),
        ("forge", ForgeOptions("https://f")),
        ("scrub", ScrubOptions()),
        ("limits", LimitOptions()),
        ("quota", QuotaOptions()),
        ("scan", ScanOptions()),
        ("permissions", PermissionOptions()),
    ):
        named = {f"{section}.{option.name}": getattr(kind, option.name) for option in fields(kind)}
        options |= named
        examples |= {key for key, value in named.items() if value in (None, (), {})}
    options.pop("scan.command")  # instead of clamd: in a comment
    examples -= {"scan.command", "access.jwt", "access.forge"}  # sections of their own
    options = {key: value for key, value in options.items() if key not in ("access.jwt", "access.forge")}
    examples |= {"jwt.keys", "jwt.issuer", "jwt.audience", "forge.url"}
    defaults = {**options, "store.durability": "sync", "log.level": "info", "log.size": 10 << 20}
    assert set(settings) == set(defaults) | examples
    assert {key: settings[key] for key in settings if key not in examples} == {
        key: value for key, value in defaults.items() if key not in examples
    }


def test_what_a_daemon_leaves_for_others_says_what_its_own_file_said(write: Write) -> None:
    policy = configure(write(EVERYTHING), {}).policy
    assert policy_of(read_file(write(render_policy(policy)))) == policy
    command = Policy(scan=ScanOptions(command=("scan", 'a "b" \\ {path}')))
    assert policy_of(read_file(write(render_policy(command)))) == command
    assert policy_of(read_file(write(render_policy(Policy())))) == Policy()


def test_the_manual_shows_the_same_file(write: Write) -> None:
    assert config_file.__doc__ is not None
    manual = (Path(__file__).parents[1] / "docs" / "OPERATIONS.md").read_text()
    section = manual.partition("## The configuration file")[2].partition("\n## ")[0]
    shown = read_file(write(documented(section)))
    assert shown == read_file(write(documented(config_file.__doc__)))


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(write: Write) -> None:
    file = write('[mount]\numask = "027"\nsharing = "isolated"\nmountpoint = "/elsewhere"')
    given = {"store.path": Path("/s"), "mount.mountpoint": Path("/m"), "mount.sharing": "open"}
    found = configure(file, given, foreground=True)
    assert (found.store, found.mountpoint, found.foreground) == (Path("/s"), Path("/m"), True)
    assert found.mount == MountOptions(umask=0o027, sharing="open")


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    given = {"store.path": tmp_path, "mount.mountpoint": Path("/m")}
    assert configure(None, given) == Config(tmp_path, Path("/m"))


def test_a_store_brings_its_own_file_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "lfsfs.toml").write_text('[store]\ndurability = "fast"')
    other = tmp_path / "other.toml"
    other.write_text("[mount]\nxattr = true")
    given = {"store.path": tmp_path, "mount.mountpoint": Path("/m")}
    assert configure(None, given).durability == "fast"
    assert configure(other, given).durability == "sync"


def test_the_machine_has_a_file_that_the_stores_own_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.toml"
    system.write_text('[store]\npath = "/srv/store"\n[mount]\nmountpoint = "/m"\nxattr = true')
    monkeypatch.setattr(config_file, "SYSTEM_FILE", system)
    assert configure(None, {}) == Config(Path("/srv/store"), Path("/m"), mount=MountOptions(xattr=True))
    store = tmp_path / "store"
    store.mkdir()
    (store / "lfsfs.toml").write_text("")
    found = configure(None, {"store.path": store, "mount.mountpoint": Path("/m")})
    assert found.mount == MountOptions()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mount]\numaks = '022'", "unknown key 'umaks' in [mount]: did you mean 'umask'?"),
        ("[mount]\nAllow_Other = true", "unknown key 'Allow_Other' in [mount]: did you mean 'allow_other'?"),
        ("[store]\nsharing = 'open'", "unknown key 'sharing' in [store]: did you mean 'sharing' in [mount]?"),
        (
            "durability = 'fast'",
            "unknown key 'durability' outside of any section: did you mean 'durability' in [store]?",
        ),
        ("[stor]", "unknown section [stor]: did you mean the section [store]?"),
        (
            "[zzz]",
            "unknown section [zzz]: there are the sections store, mount, s3, cache, server, access, jwt, forge, scrub,"
            " limits, quota, scan, permissions, log",
        ),
        ("[quota]\nrepositories = { films = 5 }", "repositories in [quota] cannot be {'films': 5}"),
        ("[limits]\nnames = 0", "names in [limits] cannot be 0: it must be a number from 1 to"),
        (
            "[jwt]\nalgorithms = ['HS256']",
            "algorithms in [jwt] cannot be ['HS256']: it must be a list of RS256",
        ),
        ("[jwt]\nalgorithms = ['none']", "algorithms in [jwt] cannot be ['none']"),
        ("[forge]\nkind = 'gitlab'", 'kind in [forge] cannot be \'gitlab\': it must be "gitea" or "github"'),
        (
            "[scrub]\nrate = 'fast'",
            "rate in [scrub] cannot be 'fast': it must be \"off\", or in quotes, a number",
        ),
        ("[store]\nzzz = 1", "unknown key 'zzz' in [store]: there are path, durability, temp"),
        ("mount = 1", "mount is a section: write [mount]"),
        (
            "[mount]\numask = 22",
            'umask in [mount] cannot be 22: it must be octal digits in quotes, such as "022"',
        ),
        ("[mount]\numask = '9'", "umask in [mount] cannot be '9': it must be octal digits in quotes"),
        ("[mount]\numask = '7777'", "umask in [mount] cannot be '7777'"),
        ("[mount]\nuid = true", "uid in [mount] cannot be true: it must be a number from 0 to 4294967294"),
        ("[mount]\nuid = -1", "uid in [mount] cannot be -1"),
        ("[mount]\ngid = 4294967295", "gid in [mount] cannot be 4294967295"),
        ("[mount]\nxattr = 'yes'", "xattr in [mount] cannot be 'yes': it must be true or false"),
        ("[mount]\nxattr = 1", "xattr in [mount] cannot be 1: it must be true or false"),
        (
            "[mount]\nsharing = 'opne'",
            'sharing in [mount] cannot be \'opne\': it must be "open" or "isolated"',
        ),
        ("[mount]\ndelete = ['allow']", "delete in [mount] cannot be ['allow']: it must be"),
        (
            "[mount]\nincomplete_age = 7",
            "incomplete_age in [mount] cannot be 7: it must be in quotes, a number with",
        ),
        ("[mount]\nincomplete_age = '7 days'", "incomplete_age in [mount] cannot be '7 days'"),
        (
            "[mount]\nmountpoint = '~/lfs'",
            "mountpoint in [mount] cannot be '~/lfs': it must be an absolute path",
        ),
        ("[store]\npath = 'relative'", "path in [store] cannot be 'relative'"),
        ('[store]\npath = "/a\\u0000b"', "path in [store] cannot be"),
        ("[log]\nlevel = 'WARN'", "level in [log] cannot be 'WARN'"),
        ("[store", "Expected ']'"),
        ("[store]\n[store]", "Cannot declare"),
    ],
)
def test_what_is_not_right_is_named_with_the_file_and_what_would_be(
    write: Write, text: str, said: str
) -> None:
    file = write(text)
    with pytest.raises(InvalidConfig) as error:
        read_file(file)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"absent.toml: No such file or directory"):
        read_file(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig, match=r"binary.toml: .*utf-8"):
        read_file(binary)


def test_a_missing_store_or_mountpoint_is_said_with_where_it_could_have_come_from(write: Write) -> None:
    file = write("[mount]\nxattr = true")
    with pytest.raises(InvalidConfig, match=r"no STORE was given, and .*some.toml has no path in \[store\]"):
        configure(file, {})
    with pytest.raises(InvalidConfig, match=r"no MNT was given, and .* has no mountpoint in \[mount\]"):
        configure(file, {"store.path": Path("/s")})
    with pytest.raises(InvalidConfig, match="no MNT was given, and there is no configuration file"):
        configure(None, {"store.path": Path("/s")})


def test_options_that_name_no_bucket_change_what_the_store_remembers(tmp_path: Path) -> None:
    given = {"store.path": tmp_path, "mount.mountpoint": Path("/m"), "cache.size": 5}
    known: dict[str, object] = {
        "s3.url": parse_s3_url("s3://bucket/p"),
        "cache.size": 7,
        "cache.mode": "s3-only",
    }
    found = configure(None, given, remembered=lambda store: known if store == tmp_path else {})
    assert found.s3 is not None and str(found.s3.url) == "s3://bucket/p"
    assert (found.cache.size, found.cache.mode) == (5, "s3-only")
    other = {**given, "s3.url": parse_s3_url("s3://other/q")}
    assert configure(None, other, remembered=lambda store: known).cache.mode == "write-back"
    with pytest.raises(InvalidConfig, match="no S3 address"):
        configure(None, given, remembered=lambda store: {})
