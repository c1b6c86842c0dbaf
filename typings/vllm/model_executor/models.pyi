class RegisteredModel:
    def load_model_cls(self) -> type: ...

class Registry:
    models: dict[str, RegisteredModel]
    def register_model(self, model_arch: str, model_cls: type) -> None: ...

ModelRegistry: Registry
