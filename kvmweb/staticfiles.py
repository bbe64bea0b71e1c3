"""Static files with a hash in their names, ES modules included."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class ModuleManifestStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Also rewrites ``import`` statements inside ES modules.

    Django silently leaves an import that has no ``;`` as it is, so a test checks each of ours.
    """

    support_js_module_import_aggregation = True
    manifest_strict = False
