class VLLMValidationError(ValueError):
    parameter: str | None
