#!/usr/bin/env python3
"""Writes the test vectors: a second writer of the format, made from docs/batch-format.md and not from the Rust code.

Run it after changing a case: python3 harness/batch/vectors/make.py
"""
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent


def entries(headers):
    return b"".join(
        struct.pack("<HI", len(n.encode()), len(v.encode())) + n.encode() + v.encode() for n, v in headers
    )


def record(m):
    topic, ct = m["topic"].encode(), m.get("content_type")
    key, headers = m.get("key"), m.get("headers", [])
    key = None if key is None else bytes.fromhex(key)
    payload = bytes.fromhex(m["payload"])
    body = topic + (ct or "").encode() + (key or b"") + entries(headers) + payload
    return struct.pack(
        "<IQHHHHII", 28 + len(body), m["timestamp"], len(topic), len(headers),
        0xFFFF if ct is None else len(ct.encode()), 0, 0xFFFFFFFF if key is None else len(key), len(payload),
    ) + body


def batch(b):
    block, records = entries(b["headers"]), b"".join(map(record, b["messages"]))
    total = 20 + len(block) + len(records)
    return b"\xd6MRB" + struct.pack("<BBHIII", 1, 0, len(b["headers"]), len(b["messages"]), total, len(block)) + block + records


VALID = {
    "empty": {"headers": [], "messages": []},
    "probe": {"headers": [["id", "probe-1"], ["attempt", "1"]], "messages": []},
    "one-bare": {"headers": [], "messages": [{"timestamp": 0, "topic": "", "payload": ""}]},
    "one-full": {
        "headers": [["id", "01JD0000000000000000000000"], ["traceparent", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"]],
        "messages": [{
            "timestamp": 1732147200123456789, "topic": "plant/press-1/temperature", "content_type": "application/json",
            "key": b"press-1".hex(), "headers": [["unit", "°F"], ["quality", "good"], ["quality", "twice"]],
            "payload": b'{"machine":"press-1","fahrenheit":181.4}'.hex(),
        }],
    },
    "empty-key-and-content-type": {
        "headers": [["", ""]],
        "messages": [{"timestamp": 2**64 - 1, "topic": "t", "content_type": "", "key": "", "headers": [["", ""]], "payload": "00ff"}],
    },
    "three": {
        "headers": [["id", "a"], ["unknown", "carried"]],
        "messages": [
            {"timestamp": i, "topic": f"t/{i}", "payload": bytes(range(i * 5)).hex(), "headers": [["n", str(i)]] * i}
            for i in range(3)
        ],
    },
}


def patched(at, new, base="three"):
    raw = bytearray(batch(VALID[base]))
    raw[at:at + len(new)] = new
    return bytes(raw)


FIRST = 20 + len(entries(VALID["three"]["headers"]))
THREE = batch(VALID["three"])
BARE = batch(VALID["one-bare"])
u16, u32 = (lambda n: struct.pack("<H", n)), (lambda n: struct.pack("<I", n))
INVALID = {
    "not-a-batch": (b"hello", "byte 0, magic: the body is not a batch"),
    "nothing": (b"", "byte 0, magic: the body is not a batch"),
    "magic-only": (b"\xd6MRB", "byte 0, batch header: needs 20 bytes, 4 are left"),
    "version-2": (patched(4, b"\x02"), "byte 4, version: is 2, expected 1"),
    "flags": (patched(5, b"\x80"), "byte 5, flags: is 128, expected 0"),
    "cut-short": (THREE[:-1], f"byte 12, total length: is {len(THREE)}, expected {len(THREE) - 1}"),
    "too-long": (THREE + b"x", f"byte 12, total length: is {len(THREE)}, expected {len(THREE) + 1}"),
    "total-beyond-bound": (patched(12, u32(16 * 1024 * 1024 + 1)), "byte 12, total length: is 16777217, at most 16777216 is allowed"),
    "header-block-beyond-bound": (patched(16, u32(65537)), "byte 16, header block length: is 65537, at most 65536 is allowed"),
    "header-block-beyond-end": (patched(16, u32(len(THREE))), f"byte 16, header block length: needs {len(THREE)} bytes, {len(THREE) - 20} are left"),
    "header-block-slack": (patched(6, u16(1)), f"byte 16, header block length: is {FIRST - 20}, expected 9"),
    "header-count": (patched(6, u16(3)), f"byte {FIRST}, header: needs 6 bytes, 0 are left"),
    "count-beyond-bytes": (patched(8, u32(2**32 - 1)), f"byte 8, message count: is 4294967295, at most {(len(THREE) - FIRST) // 28} is allowed"),
    "count-too-small": (patched(8, u32(2)), None),
    "header-name-not-utf8": (patched(26, b"\xff"), "byte 26, header name: is not UTF-8"),
    "record-length-short": (patched(20, u32(27), "one-bare"), "byte 20, record length: needs 28 bytes, 27 are left"),
    "record-length-beyond-end": (patched(20, u32(29), "one-bare"), "byte 20, record length: needs 29 bytes, 28 are left"),
    "record-length-slack": (patched(FIRST, u32(struct.unpack_from("<I", THREE, FIRST)[0] + 1)), f"byte {FIRST}, record length: is 32, expected 31"),
    "reserved": (patched(FIRST + 18, u16(1)), f"byte {FIRST + 18}, reserved: is 1, expected 0"),
    "topic-beyond-record": (patched(FIRST + 12, u16(0xFFFF)), f"byte {FIRST + 28}, topic: needs 65535 bytes, 3 are left"),
    "topic-not-utf8": (patched(FIRST + 28, b"\xc0"), f"byte {FIRST + 28}, topic: is not UTF-8"),
    "content-type-beyond-record": (patched(20 + 16, u16(1), "one-bare"), "byte 48, content type: needs 1 bytes, 0 are left"),
    "key-beyond-record": (patched(20 + 20, u32(2**32 - 2), "one-bare"), "byte 48, key: needs 4294967294 bytes, 0 are left"),
    "message-header-missing": (patched(20 + 14, u16(1), "one-bare"), "byte 48, header: needs 6 bytes, 0 are left"),
    "payload-beyond-record": (patched(20 + 24, u32(2**31), "one-bare"), "byte 48, payload: needs 2147483648 bytes, 0 are left"),
}
third = FIRST + sum(len(record(m)) for m in VALID["three"]["messages"][:2])
INVALID["count-too-small"] = (INVALID["count-too-small"][0], f"byte 12, total length: is {len(THREE)}, expected {third}")

for kind in ("valid", "invalid"):
    (HERE / kind).mkdir(exist_ok=True)
    for old in (HERE / kind).iterdir():
        old.unlink()
for name, case in VALID.items():
    (HERE / "valid" / f"{name}.bin").write_bytes(batch(case))
    (HERE / "valid" / f"{name}.json").write_text(json.dumps(case, indent=2, ensure_ascii=False) + "\n")
for name, (raw, error) in INVALID.items():
    (HERE / "invalid" / f"{name}.bin").write_bytes(raw)
    (HERE / "invalid" / f"{name}.json").write_text(json.dumps({"error": error}, indent=2) + "\n")
