/* A FUSE file system that does nothing: what the kernel and the change from process to process take, and nothing else.

   bare_fuse DESCRIPTOR FILE         serves /dev/fuse, open as DESCRIPTOR and mounted: every name is this file
   bare_fuse DESCRIPTOR FILE awake   never sleeps: it asks for the next request again and again, and takes a core

   scripts/bench compares the mount with it (scripts/bare_fuse.py starts it). It serves until it is unmounted. */

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILE_NODE = 2, FOREVER = 86400, LARGEST_WRITE = 1 << 20 };

static char request[LARGEST_WRITE + 4096], content[1 << 20];
static size_t content_size;

union answer {
    struct fuse_init_out init;
    struct fuse_entry_out entry;
    struct fuse_attr_out attr;
    struct fuse_open_out open;
};

static void describe(struct fuse_attr *attr, uint64_t node) {
    attr->ino = node;
    attr->mode = node == FILE_NODE ? S_IFREG | 0644 : S_IFDIR | 0755;
    attr->size = node == FILE_NODE ? content_size : 0;
    attr->nlink = 1;
    attr->blksize = 4096;
}

/* The answer's size, or -errno. `data` is where it lies, if not in `out`. */
static int serve(const struct fuse_in_header *in, const void *body, union answer *out, void **data) {
    switch (in->opcode) {
    case FUSE_INIT:
        out->init.major = 7;
        out->init.minor = 31;
        out->init.max_readahead = ((const struct fuse_init_in *)body)->max_readahead;
        out->init.max_background = 64;
        out->init.max_write = LARGEST_WRITE;
        return sizeof out->init;
    case FUSE_LOOKUP:
        out->entry.nodeid = FILE_NODE;
        out->entry.entry_valid = out->entry.attr_valid = FOREVER;
        describe(&out->entry.attr, FILE_NODE);
        return sizeof out->entry;
    case FUSE_GETATTR:
        out->attr.attr_valid = FOREVER;
        describe(&out->attr.attr, in->nodeid);
        return sizeof out->attr;
    case FUSE_OPEN:
        out->open.fh = FILE_NODE;
        out->open.open_flags = FOPEN_KEEP_CACHE | 1 << 5; /* FOPEN_NOFLUSH, which older headers do not name */
        return sizeof out->open;
    case FUSE_READ: {
        const struct fuse_read_in *read = body;
        size_t left = read->offset < content_size ? content_size - read->offset : 0;
        *data = content + read->offset;
        return left < read->size ? left : read->size;
    }
    case FUSE_FLUSH:
    case FUSE_RELEASE:
        return 0;
    default:
        return -ENOSYS;
    }
}

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    int sleeps = count == 3;
    int device = atoi(arguments[1]);
    FILE *file = fopen(arguments[2], "rb");
    if (!file)
        return 1;
    content_size = fread(content, 1, sizeof content, file);
    struct pollfd ready = {.fd = device, .events = POLLIN};
    for (;;) {
        const struct fuse_in_header *in = (const void *)request;
        if (read(device, request, sizeof request) < 0) {
            if (errno == EAGAIN && sleeps)
                poll(&ready, 1, -1);
            else if (errno != EAGAIN && errno != ENOENT && errno != EINTR)
                return errno != ENODEV;
            continue;
        }
        if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET || in->opcode == FUSE_INTERRUPT)
            continue;
        union answer out = {0};
        void *data = &out;
        int size = serve(in, request + sizeof *in, &out, &data);
        struct fuse_out_header head = {.unique = in->unique, .error = size < 0 ? size : 0};
        head.len = sizeof head + (size > 0 ? size : 0);
        struct iovec parts[] = {{&head, sizeof head}, {data, size > 0 ? size : 0}};
        if (writev(device, parts, 2) < 0 && errno != ENOENT)
            return 1;
    }
}
