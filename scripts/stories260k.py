#!/usr/bin/env python3
"""The stories260K model of llama2.c as it was published, from the file of the shared data sets.

usage: stories260k.py DATA_DIR OUT_DIR

In that file every matrix of a layer lies transposed: its source turned the rows (out, in) into
columns, in place and five times over, each time as if they were rows still. This undoes it and
writes stories260K.bin, and tok512.bin: of the 512 pieces those 97 that occur in the story which
llama2.c prints in its documentation, found by laying that text beside the model's ids. The others
are written as <id>. Then

    tessera import OUT_DIR/stories260K.bin --tokenizer OUT_DIR/tok512.bin --run runs/stories
    tessera generate runs/stories --prompt "" --tokens 256 --temperature 0

prints that story.
"""
import array
import os
import struct
import sys

PIECES = {
    261: " a", 262: " s", 263: " w", 264: "nd", 265: " the", 266: "ed", 267: " to", 268: " b", 269: " and",
    270: " h", 272: " f", 278: " l", 279: " d", 280: " c", 281: " he", 282: " p", 285: "er", 286: " was", 289: "on",
    290: "il", 292: "id", 294: "at", 295: "ar", 296: " sa", 298: " g", 303: "an", 304: "or", 310: "ily", 311: " her",
    312: " it", 313: ' "', 315: "ir", 316: "et", 317: " Lily", 320: " H", 322: " in", 327: "ow", 328: " day",
    333: "ig", 335: " with", 336: " said", 337: " play", 338: " She", 342: " They", 352: " r", 357: " mom",
    358: " she", 359: " I", 364: " you", 370: " big", 376: " little", 377: "ent", 378: " time", 379: "un", 381: " had",
    383: " there", 384: " so", 385: " One", 386: "her", 388: "all", 391: " want", 394: " saw", 395: " named",
    396: "ved", 398: " but", 400: " do", 401: " lo", 403: " Once", 407: " upon", 408: "out", 409: " k", 410: " ",
    411: "e", 413: "t", 414: "o", 415: "h", 416: "n", 417: "i", 418: "d", 419: "s", 420: "r", 421: "l", 422: "y",
    423: "m", 426: ".", 427: "p", 428: "g", 431: "f", 432: ",", 433: "k", 436: '"', 438: "L", 439: "'", 442: "I",
    447: "A", 448: "W", 455: "D"}


def transposed(values, rows, columns):
    return array.array("f", (values[i * columns + j] for j in range(columns) for i in range(rows)))


def restore(data):
    dim, hidden, depth, heads, kv_heads, vocabulary, _ = struct.unpack("7i", data[:28])
    kv = dim // heads * kv_heads
    numbers = array.array("f", data[28:])
    at = vocabulary * dim
    # Sizes of the layers' tensors in the order of the file; vectors are not touched.
    for rows, columns in ((1, dim), (dim, dim), (kv, dim), (kv, dim), (dim, dim), (1, dim), (hidden, dim),
                          (dim, hidden), (hidden, dim)):
        for _ in range(depth):
            size = rows * columns
            values = numbers[at:at + size]
            for _ in range(5 if rows > 1 else 0):
                values = transposed(values, rows, columns)
            numbers[at:at + size] = values
            at += size
    return data[:28] + numbers.tobytes()


def vocabulary():
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += [PIECES.get(i, f"<{i}>") for i in range(len(pieces), 512)]
    encoded = [p.encode() for p in pieces]
    out = struct.pack("<i", max(map(len, encoded)))
    for i, piece in enumerate(encoded):
        out += struct.pack("<fi", float(min(0, 259 - i)), len(piece)) + piece
    return out


def main(data_dir, out):
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(data_dir, "llama2c_stories260k/stories260K.bin"), "rb") as f:
        data = f.read()
    with open(os.path.join(out, "stories260K.bin"), "wb") as f:
        f.write(restore(data))
    with open(os.path.join(out, "tok512.bin"), "wb") as f:
        f.write(vocabulary())


main(sys.argv[1], sys.argv[2])
