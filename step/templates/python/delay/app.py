from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Error_InvalidArgument, Message

import logic


class Delay(exports.Delay):
    def init(self, configuration: list[tuple[str, str]]) -> None:
        pass

    def delay(self, message: Message) -> int:
        try:
            return logic.time(message.payload)
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))
