# %% [markdown]
# # Files, tables and vectors in one store
#
# A notebook in a Python file: open it in VS Code, Spyder or with jupytext, or run it as it is.
# It needs `pip install 'lfsfs[fsspec]' pandas pyarrow`, and no mount; a mount of the store shows the same.

# %%
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import lfsfs

folder = tempfile.TemporaryDirectory()
store = Path(os.environ.get("LFSFS_STORE") or folder.name) / "notebook-store"
client = lfsfs.connect(store, create=True)
options = {"store": str(store)}

# %% [markdown]
# ## Objects
#
# What is put is verified and durable when `put` returns. Its oid is the SHA-256 of its bytes; equal bytes are kept once.

# %%
client.add_repository("papers")  # what a repository refers to, no `lfsfs gc` takes
row = client.put(b"The first page.\n" * 1000, repository="papers")
print(row.oid, row.size, row.content_type)
print(client.pointer(row.oid))

# %%
with client.open(row.oid) as file:  # read block by block, each verified
    file.seek(16 * 500)
    print(file.readline())
print(client.why(row.oid))

# %% [markdown]
# ## Tables, by name
#
# Below `incoming/`, files have names. In a mount they are files; here they are `lfsfs://incoming/…`.

# %%
pages = pd.DataFrame({"page": range(100), "text": [f"Page {number}" for number in range(100)]})
pages["hash"] = [hashlib.sha256(text.encode()).hexdigest() for text in pages["text"]]
pages.to_parquet("lfsfs://incoming/papers/pages.parquet", storage_options=options)
again = pd.read_parquet("lfsfs://incoming/papers/pages.parquet", storage_options=options, columns=["page"])
print(len(again), client.search("pages.parquet")[0].stat.oid)

# %% [markdown]
# ## Vectors, by the hash of what they were made from
#
# All of a batch, or nothing. A second time costs nothing: `contains` says what is there already.

# %%
texts = client.embeddings.create("texts")
missing = [
    one for one, there in zip(pages["hash"], texts.contains(list(pages["hash"])), strict=True) if not there
]
vectors = np.random.default_rng(0).normal(size=(len(missing), 64)).astype(np.float32)  # stands for a model
texts.write_embeddings_batch((missing, vectors))

# %%
hashes, matrix = texts.matrix()  # rows in the order of the hashes, ascending
query = matrix[0] / np.linalg.norm(matrix[0])
scores = matrix @ query / np.linalg.norm(matrix, axis=1)
best = pd.Series(scores, index=hashes).nlargest(3)
print(pages.set_index("hash").loc[best.index, "text"])

# %% [markdown]
# The same vectors are npz files, for whoever reads files:

# %%
import fsspec  # noqa: E402

with fsspec.open(f"lfsfs://embeddings/texts/{hashes[0]}.npz", **options) as file, np.load(file) as npz:
    assert (npz["vector"] == matrix[0]).all()

# %%
fsspec.filesystem("lfsfs", **options).close()
client.close()
folder.cleanup()
