"""nncodec on the weights that codec.py exports; to be run where it is installed.

    python benchmarks/codec.py --export weights                     # where tersor is
    python benchmarks/codec_nncodec.py weights benchmarks/codec_peers.json   # where nncodec is

Its lossless core alone (DeepCABAC) codes the index of each weight in the sorted codebook, zero
being 0, as its own codebook mode does; the codebook is counted with 4 bytes an entry, its headers
not at all. Of its settings (parameters optimised or not, rows skipped or not) the smallest counts.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import safetensors.numpy
from nncodec.extensions import deepCABAC
from nncodec.nnc_core.hdsp.hdsp_tool import HDSP_OPTS_OFF

UNARY = 10


def encode(indices, optimised, skip):
    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY + 1, optimised)
    empty = np.array([0 if np.any(row) else 1 for row in indices], np.int32)
    encoder.encodeLayer(indices, 0, 0, 1, 0, skip, empty, *HDSP_OPTS_OFF(), 0, 0)
    return np.array(encoder.finish())


def decode(stream, shape):
    decoder = deepCABAC.Decoder()
    decoder.setStream(stream)
    decoder.initCtxModels(UNARY + 1)
    indices = np.zeros(shape, np.int32)
    decoder.decodeLayer(indices, 0, 0, 1, 0, *HDSP_OPTS_OFF(), 0, 0)
    return indices


def main():
    rows = []
    for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
        size, encoding, decoding, dense = 0, 0.0, 0.0, 0
        for array in safetensors.numpy.load_file(path).values():
            dense += array.nbytes
            if array.ndim < 2:
                size += array.nbytes
                continue
            book, codes = np.unique(array, return_inverse=True)
            zero = int(np.flatnonzero(book == 0)[0]) if (book == 0).any() else 0
            indices = (codes.reshape(array.shape) - zero).astype(np.int32)
            streams = []
            for optimised in (0, 1):
                for skip in (0, 1):
                    began = time.process_time()
                    streams.append((encode(indices, optimised, skip), time.process_time() - began))
            stream, seconds = min(streams, key=lambda one: len(one[0]))
            began = time.process_time()
            back = decode(stream, indices.shape)
            decoding += time.process_time() - began
            assert np.array_equal(back, indices)
            encoding += seconds
            size += len(stream) + 4 * len(book)
        rows.append(
            {
                "tensors": path.stem,
                "nncodec bytes": size,
                "nncodec encode MB/s": round(dense / encoding / 1e6, 1),
                "nncodec decode MB/s": round(dense / decoding / 1e6, 1),
            }
        )
        print(rows[-1], flush=True)
    Path(sys.argv[2]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
