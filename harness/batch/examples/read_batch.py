#!/usr/bin/env python3
"""A whole reader of the batch format. Prints a batch as JSON: read_batch.py FILE"""
import json
import struct
import sys


def headers(raw, at, count):
    found = []
    for _ in range(count):
        name, value = struct.unpack_from("<HI", raw, at)
        at += 6
        found.append([raw[at:at + name].decode(), raw[at + name:at + name + value].decode()])
        at += name + value
    return found, at


def read(raw):
    magic, version, flags, header_count, count, total, block = struct.unpack_from("<4sBBHIII", raw)
    if magic != b"\xd6MRB" or (version, flags) != (1, 0) or total != len(raw):
        raise ValueError("not a batch of version 1, or cut short")
    batch_headers, at = headers(raw, 20, header_count)
    if at != 20 + block:
        raise ValueError("header block length")
    messages = []
    for _ in range(count):
        length, timestamp, topic, header_count, ctype, _, key, payload = struct.unpack_from("<IQHHHHII", raw, at)
        end, at = at + length, at + 28
        message = {"timestamp": timestamp, "topic": raw[at:at + topic].decode()}
        at += topic
        if ctype != 0xFFFF:
            message["content_type"] = raw[at:at + ctype].decode()
            at += ctype
        if key != 0xFFFFFFFF:
            message["key"] = raw[at:at + key].hex()
            at += key
        message["headers"], at = headers(raw, at, header_count)
        message["payload"] = raw[at:at + payload].hex()
        at += payload
        if at != end or end > total:
            raise ValueError("record length")
        messages.append(message)
    return {"headers": batch_headers, "messages": messages}


if __name__ == "__main__":
    print(json.dumps(read(open(sys.argv[1], "rb").read()), ensure_ascii=False))
