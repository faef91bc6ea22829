"""Parameters of the stage compress."""

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class Config(BaseModel):
    """Which kind of soft label is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    NOT_KEYED: ClassVar[frozenset[str]] = frozenset()

    kind: Literal[
        "hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full", "logits"
    ] = "marginal_smoothing"
    """FKD section 3.2: what stands for the classes that are not kept; logits: the outputs of a
    self-supervised teacher (infer.outputs: projection), section 3.4."""
    k: int = Field(5, ge=1, le=65534)
    """K, classes kept a crop by the marginal kinds (fewer where there are fewer classes)."""
    precision: Literal["float16", "compact"] = "compact"
    """Grid that probabilities are rounded to: float16, or one of mean KL below 1e-4."""
    temperature: float = Field(1.0, ge=1e-3, lt=1e6)
    """T of the labels; top-R predictions serve those in infer.temperatures."""
    include_target: bool = False
    """Keep the ground truth's probability also where it is not among the top K."""
    normalize: Literal["none", "l2"] = "none"
    """For kind logits: l2 divides a crop's outputs by their Euclidean norm."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.include_target and self.kind in ("hard", "full", "logits"):
            raise ValueError(f"include_target is true, allowed with kind {self.kind}: false")
        if self.normalize != "none" and self.kind != "logits":
            raise ValueError(f"normalize is l2, allowed with kind {self.kind}: none")
        if self.temperature != 1 and self.kind == "logits":
            raise ValueError(
                f"temperature is {self.temperature}, allowed with kind logits: 1, since training "
                "has its own (train.projection_temperature)"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_keyed(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `normalize` where it says nothing, so that labels of other kinds keep the keys
        that they had before there was kind logits.
        """
        fields: dict[str, Any] = dump(self)
        if self.kind != "logits":
            fields.pop("normalize", None)
        else:  # which keeps every output, as float16
            fields = {name: fields[name] for name in ("kind", "normalize") if name in fields}
        return fields
