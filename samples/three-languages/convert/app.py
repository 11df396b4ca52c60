from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Error_InvalidArgument, Message

import logic


class Map(exports.Map):
    def init(self, configuration: list[tuple[str, str]]) -> None:
        pass

    def map(self, message: Message) -> Message:
        try:
            message.payload = logic.to_celsius(message.payload)
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))
        return message
