"""Reads a TensorBoard event file by its published format, sharing nothing with what wrote it: prints a JSON list with one object per
event, {"step", "version" | "start" | "values": {tag: value}}. With tensorboard installed its own loader reads the file too, and both must
agree. Fails on a wrong checksum or length."""
import json
import struct
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    while data:
        (length,), (crc,) = struct.unpack_from("<Q", data), struct.unpack_from("<I", data, 8)
        assert crc == masked(data[:8]), "checksum of a length"
        message = data[12:12 + length]
        assert struct.unpack_from("<I", data, 12 + length)[0] == masked(message), "checksum of a message"
        yield message
        data = data[16 + length:]


def fields(message):
    """Protocol Buffers' wire format: (number, value); value an int, 4 or 8 bytes, or bytes of a length."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield key >> 3, message[at:at + size]
        at += size


def event(message):
    read = {"step": 0}
    for number, value in fields(message):
        if number == 2:
            read["step"] = value
        elif number == 3:
            read["version"] = value.decode()
        elif number == 7:
            read["start"] = dict(fields(value)).get(1) == 1
        elif number == 5:
            read["values"] = {}
            for _, entry in fields(value):
                point = dict(fields(entry))
                read["values"][point[1].decode()] = struct.unpack("<f", point.get(2, b"\0" * 4))[0]
    return read


events = [event(message) for message in records(open(sys.argv[1], "rb").read())]
try:
    from tensorboard.backend.event_processing import event_file_loader
except ImportError:
    pass
else:
    theirs = list(event_file_loader.RawEventFileLoader(sys.argv[1]).Load())
    assert len(theirs) == len(events), "tensorboard reads another number of events"
    from tensorboard.compat.proto import event_pb2
    for ours, raw in zip(events, theirs):
        parsed = event_pb2.Event.FromString(raw)
        assert parsed.step == ours["step"], "step"
        assert {v.tag: v.simple_value for v in parsed.summary.value} == ours.get("values", {}), "values"
        assert parsed.file_version == ours.get("version", ""), "version"
        assert (parsed.session_log.status == 1) == ours.get("start", False), "start"
    print("tensorboard agrees", file=sys.stderr)
print(json.dumps(events))
