from typing import Any

class Platform:
    get_punica_wrapper: Any

current_platform: Platform
