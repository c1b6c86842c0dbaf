from typing import Any

from . import ChatMessage, MessageRole, Tool

tool_role_conversions: dict[MessageRole, MessageRole]

def get_clean_message_list(
    message_list: list[ChatMessage],
    role_conversions: dict[MessageRole, MessageRole] = ...,
    convert_images_to_image_urls: bool = False,
    flatten_messages_as_text: bool = False,
) -> list[dict[str, Any]]: ...
def get_tool_json_schema(tool: Tool) -> dict[str, Any]: ...
