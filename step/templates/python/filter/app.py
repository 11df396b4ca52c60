from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Error_InvalidArgument, Message

import logic


class Filter(exports.Filter):
    def init(self, configuration: list[tuple[str, str]]) -> None:
        try:
            logic.limit = logic.read(dict(configuration))
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))

    def filter(self, message: Message) -> bool:
        try:
            return logic.is_above(message.payload)
        except ValueError as error:
            raise Err(Error_InvalidArgument(str(error)))
