from typing import Any, ClassVar

from vllm.config import VllmConfig
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

class AsyncEngineArgs:
    __dataclass_fields__: ClassVar[dict[str, Any]]
    def __init__(self, **arguments: Any) -> None: ...
    @staticmethod
    def add_cli_args(parser: FlexibleArgumentParser) -> FlexibleArgumentParser: ...
    def create_engine_config(self, usage_context: UsageContext) -> VllmConfig: ...
