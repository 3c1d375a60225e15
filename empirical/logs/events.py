"""Scalars of TensorBoard event files, read without TensorBoard.

Format    A file is a sequence of records ``length (u64) | crc(length) (u32) | bytes | crc(bytes) (u32)``,
          little-endian, each checksum a masked CRC-32C. The bytes are an ``Event`` message: wall_time 1, step 2,
          summary 5; a summary holds values: tag 1, simple_value 2, tensor 8 (dtype 1, tensor_content 4, float_val 5,
          double_val 6): the field numbers of TensorFlow's ``event.proto``, ``summary.proto`` and ``tensor.proto``.
Epochs    The scalar ``epoch``, where one is logged, says which epoch a step belongs to. Without it steps are epochs,
          unless `iterations_per_epoch` is given: then the last value of an epoch counts.
Restarts  Later files of a folder are restarts: they replace what earlier ones hold from their first step on.
Why ours  TensorBoard's own loader (2.21) ends without a word at the first record that is torn or whose checksum is
          wrong, and yields nothing for a file that is no event file: a damaged log would be shorter, not refused.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from empirical.logs.columns import canonical_name
from empirical.logs.table import Fault, Parsed, Row, clashes


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_CRC = _table()


def masked_crc(data: bytes) -> int:
    """Checksum of a record: CRC-32C (Castagnoli), rotated right by 15 and offset, as TFRecord writes it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def looks_like_events(head: bytes) -> bool:
    """Whether the first record's length carries a right checksum."""
    return len(head) >= 12 and struct.unpack("<I", head[8:12])[0] == masked_crc(head[:8])


def parse_events(files: Sequence[tuple[str, bytes]], iterations_per_epoch: int | None = None) -> Parsed:
    """Read the event files of one run; what is wrong with them is in the result, not raised.

    Args:
        files: (name, content) of each file; a fault's `line` is the number of a record.
        iterations_per_epoch: turns steps into epochs.
    """
    parsed = Parsed(format="tensorboard", sparse=True)
    segments = []
    for name, content in files:
        wall, scalars, fault = _read_file(content)
        if fault is not None:
            parsed.faults.append(
                Fault(line=fault.line, text=f"{fault.text} ({name})" if len(files) > 1 else fault.text)
            )
        if scalars:
            segments.append((wall, scalars))
    segments.sort(key=lambda item: item[0])
    unread: dict[str, None] = {}
    tags = dict.fromkeys(tag for _, scalars in segments for _, _, tag, _ in scalars)
    parsed.faults += clashes(0, ((tag, canonical_name(tag)) for tag in tags))
    steps = sorted({step for _, scalars in segments for _, step, _, _ in scalars})
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    has_epochs = any(tag.lower() == "epoch" for _, scalars in segments for _, _, tag, _ in scalars)
    if not has_epochs and iterations_per_epoch is None and gaps and min(gaps) > 1:
        parsed.faults.append(
            Fault(line=0, text=f"steps rise by {min(gaps)} and no epoch is logged: give --iterations-per-epoch")
        )
        return parsed
    for index, (_, scalars) in enumerate(segments):
        if index:
            parsed.restarts.append(len(parsed.rows))
        epoch_of = {step: value for _, step, tag, value in scalars if tag.lower() == "epoch"}
        rows: dict[int, Row] = {}
        for record, step, tag, value in scalars:
            column = canonical_name(tag)
            if column is None:
                unread[tag] = None
            if column in (None, "epoch"):
                continue
            if has_epochs and step not in epoch_of:
                continue  # a value inside an epoch, such as a learning rate logged every iteration
            epoch = int(epoch_of[step]) if has_epochs else step // (iterations_per_epoch or 1)
            row = rows.get(epoch) or Row(line=record, values={"epoch": float(epoch)})
            rows[epoch] = Row(line=row.line, values={**row.values, column: value})
        parsed.rows += [rows[epoch] for epoch in sorted(rows)]
    parsed.unread_columns = tuple(unread)
    return parsed


def _read_file(content: bytes) -> tuple[float, list[tuple[int, int, str, float]], Fault | None]:
    """Wall time of the first event, (record, step, tag, value) of every scalar, and what stopped the reading."""
    scalars: list[tuple[int, int, str, float]] = []
    started = 0.0
    position = record = 0
    while position < len(content):
        record += 1
        head = content[position : position + 12]
        if len(head) < 12:
            return started, scalars, Fault(line=record, text="the file ends in mid-record")
        (length,) = struct.unpack("<Q", head[:8])
        if struct.unpack("<I", head[8:])[0] != masked_crc(head[:8]):
            return (
                started,
                scalars,
                Fault(line=record, text="a record's length has a wrong checksum: the file is damaged"),
            )
        end = position + 12 + length
        if end + 4 > len(content):
            return started, scalars, Fault(line=record, text="the file ends in mid-record")
        data = content[position + 12 : end]
        if struct.unpack("<I", content[end : end + 4])[0] != masked_crc(data):
            return started, scalars, Fault(line=record, text="a record has a wrong checksum: the file is damaged")
        try:
            wall, step, values = _event(data)
        except (ValueError, IndexError, struct.error) as error:
            return started, scalars, Fault(line=record, text=f"a record is no event: {error}")
        started = started or wall
        scalars += [(record, step, tag, value) for tag, value in values]
        position = end + 4
    return started, scalars, None


def _event(data: bytes) -> tuple[float, int, list[tuple[str, float]]]:
    wall, step, values = 0.0, 0, []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            (wall,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            for inner, item in _fields(value):
                if inner == 1 and isinstance(item, bytes):
                    scalar = _scalar(item)
                    if scalar is not None:
                        values.append(scalar)
    return wall, step, values


def _scalar(data: bytes) -> tuple[str, float] | None:
    tag, found = "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            found = _shortest(value)
        elif number == 8 and isinstance(value, bytes):
            found = _tensor(value)
    return None if found is None else (tag, found)


def _tensor(data: bytes) -> float | None:
    """The number in a tensor of one float or double; None for anything else (images, histograms, text)."""
    dtype, content, layouts = 0, b"", {1: "<f", 2: "<d"}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            dtype = value
        elif (number == 4 or number == 4 + dtype) and isinstance(value, bytes):
            content = value
    layout = layouts.get(dtype)
    if layout is None or len(content) != struct.calcsize(layout):
        return None
    return _shortest(content) if dtype == 1 else struct.unpack(layout, content)[0]


def _shortest(content: bytes) -> float:
    """The double with the fewest digits that rounds to this single: 0.1 was logged, not 0.10000000149."""
    return float(str(np.frombuffer(content, dtype="<f4")[0]))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol-buffer message: varints as int, everything else as its bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + size > len(data):
            raise ValueError("a field runs past the end")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
