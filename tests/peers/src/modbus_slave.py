"""A Modbus slave for tests: pymodbus with the units, coils and registers of a JSON file.

modbus_slave.py CONFIG, where CONFIG is {"mode": "tcp" | "rtu-over-tcp" | "serial", "port": TCP port,
"line": serial line, "units": [{"unit": 1, "coils": [...], "discrete": [...], "holding": [...], "input": [...]}]}.
Every request is printed as one line: unit, function, address, count. On a serial line the TCP port only
shows that the slave is ready.
"""

import asyncio
import json
import sys

from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice


def registers(values):
    return [SimData(0, values=values, datatype=DataType.REGISTERS)]


def bits(values):
    return [SimData(0, values=values, datatype=DataType.BITS)]


def device(unit):
    return SimDevice(
        id=unit["unit"],
        simdata=(
            bits(unit["coils"]),
            bits(unit["discrete"]),
            registers(unit["holding"]),
            registers(unit["input"]),
        ),
    )


def trace(sending, pdu):
    if not sending:
        print(f"request {pdu.dev_id} {pdu.function_code} {pdu.address} {pdu.count}", flush=True)
    return pdu


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    context = [device(unit) for unit in config["units"]]
    here = ("127.0.0.1", config["port"])
    units = {unit["unit"] for unit in config["units"]}
    place = 6 if config["mode"] == "tcp" else 0

    # A unit that is not there does not answer, as on a bus. (The server's own option for that knows
    # only its older kind of store: with this one it answers with an exception.)
    def hear(sending, data):
        return data if sending or len(data) <= place or data[place] in units else b""

    common = {"trace_pdu": trace, "trace_packet": hear}
    if config["mode"] == "serial":
        server = ModbusSerialServer(
            context, framer=FramerType.RTU, port=config["line"], baudrate=19200, parity="N", **common
        )
        await server.serve_forever(background=True)
        ready = await asyncio.start_server(lambda _, writer: writer.close(), *here)
        await ready.serve_forever()
    else:
        framer = FramerType.SOCKET if config["mode"] == "tcp" else FramerType.RTU
        await ModbusTcpServer(context, framer=framer, address=here, **common).serve_forever()


asyncio.run(main())
