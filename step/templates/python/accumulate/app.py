from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.accumulate import Window
from wit_world.imports.types import Error_Internal, Error_InvalidArgument, Message

import logic


class Accumulate(exports.Accumulate):
    def init(self, configuration: list[tuple[str, str]]) -> None:
        pass

    def accumulate(self, state: Optional[bytes], messages: list[Message]) -> bytes:
        try:
            count, total = logic.read(state)
        except ValueError as error:
            raise Err(Error_Internal(str(error)))
        try:
            for message in messages:
                count, total = count + 1, total + logic.number(message.payload)
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))
        return logic.write(count, total)

    def finish(self, window: Window, state: bytes) -> list[Message]:
        try:
            payload = logic.mean(*logic.read(state))
        except ValueError as error:
            raise Err(Error_Internal(str(error)))
        # The timestamp 0 becomes the window's end.
        return [Message(0, window.topic, window.key, None, [], payload)]
