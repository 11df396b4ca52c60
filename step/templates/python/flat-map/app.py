from dataclasses import replace

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Error_InvalidArgument, Message

import logic


class FlatMap(exports.FlatMap):
    def init(self, configuration: list[tuple[str, str]]) -> None:
        pass

    def flat_map(self, message: Message) -> list[Message]:
        try:
            lines = logic.lines(message.payload)
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))
        return [replace(message, payload=line) for line in lines]
