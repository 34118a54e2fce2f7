"""Snapshots: a whole catalog as canonical JSON. Knows no store and no event.

A version that gives the catalog more state raises `FORMAT`; older readers ignore its snapshots.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from adapters_store.catalog import Catalog
from adapters_store.errors import StoreCorruptError
from adapters_store.manifest import canonical

FORMAT: Final = 1


class _Snapshot(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = FORMAT
    catalog: Catalog


def catalog_to_json(catalog: Catalog) -> bytes:
    """The bytes of a snapshot; equal catalogs give equal bytes."""
    return canonical(_Snapshot(catalog=catalog).model_dump(mode="json")).encode()


def catalog_from_json(data: bytes) -> Catalog:
    """The catalog in these bytes, its invariants checked.

    Raises:
        StoreCorruptError: another format, damaged, or no catalog that a log can fold to.
    """
    try:
        catalog = _Snapshot.model_validate_json(data).catalog
        catalog.check()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise StoreCorruptError("snapshot", f"{where}: {first['msg']}") from None
    except ValueError as error:
        raise StoreCorruptError("snapshot", str(error)) from None
    return catalog
