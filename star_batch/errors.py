"""Every error that star_batch raises on purpose. Knows nothing but words.

    StarBatchError
    ├── ConfigError          an option or a file of options is wrong; nothing was loaded or read
    │   └── PluginError      an installed plugin cannot be loaded, and something that it may bring was asked for
    ├── ModelError           the checkpoint is missing, unreadable or of a family that is not supported
    ├── InputError           the input as a whole: unreadable, empty, or a column is missing
    ├── OutputError          the output as a whole: not writable, or it holds another run's results
    ├── ClusterError         Ray cannot be reached, or something failed there that is no record's fault
    ├── LeaseHeld            another run is at work on the output; LeaseLost: it has taken over
    ├── PromiseBroken        an output does not hold every row exactly once
    ├── TooManyFailed        more rows failed than the job allows; what is committed stays
    ├── Interrupted          somebody pressed Ctrl-C; what is committed stays
    └── RecordError          one record; it becomes an error row and the job goes on
        ├── ImageError
        │   ├── ImageMissing, ImageFetchFailed, ImageFetchRefused, ImageUnreadable
        │   └── ImageFormatRefused, ImageTooLarge
        ├── PromptError
        │   └── PromptMissing, PromptInvalid, PromptTooLong
        ├── ValueInvalid
        ├── RowTooLarge, NotFinite
        ├── RequestRefused
        └── Quarantined

A `RecordError` carries the stable word that goes into the answers' `error_type` column as `kind`.
`exit_code` is what the command line returns for an error that stops the job.
"""

from typing import ClassVar

from star_batch.wording import printable

LONGEST_REASON = 1000
"""Characters of the text in a failed row's `error`."""


class StarBatchError(Exception):
    """The root: catch this to catch everything that star_batch raises on purpose.

    Each argument is a line of its own, as a text from outside must not break one.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(StarBatchError, ValueError):
    """A configuration that cannot work; raised before a model is loaded or a file is read."""

    exit_code = 2


class PluginError(ConfigError):
    """An installed plugin that cannot be loaded; it names the plugin and the package that brings it."""


class ModelError(StarBatchError):
    """A checkpoint that cannot be loaded or whose family is not supported."""

    exit_code = 3


class InputError(StarBatchError):
    """The input as a whole cannot be used."""

    exit_code = 4


class OutputError(StarBatchError):
    """The output as a whole cannot be used."""

    exit_code = 5


class ClusterError(StarBatchError):
    """Ray cannot be reached, or something failed in one of its processes that is no record's fault."""

    exit_code = 6


class LeaseHeld(StarBatchError):
    """Another run is at work on the output."""

    exit_code = 7


class LeaseLost(LeaseHeld):
    """Another run has taken over; what was committed before that counts."""


class PromiseBroken(StarBatchError):
    """An output does not hold every row exactly once, or does not hold it yet."""

    exit_code = 8


class TooManyFailed(StarBatchError):
    """More rows failed than the job allows; what is committed stays."""

    exit_code = 9


class Interrupted(StarBatchError):
    """Somebody pressed Ctrl-C; what is committed stays."""

    exit_code = 130


class RecordError(StarBatchError):
    """One record cannot be answered. `kind` is the word written as `error_type`.

    What is written as `error` is `str` of it: one line that anybody may print, however long and dirty the record was.
    """

    kind: ClassVar[str] = "record"

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_REASON)


class ImageError(RecordError):
    """Something about the record's image."""

    kind = "image"


class ImageMissing(ImageError):
    """No image, or an empty one."""

    kind = "image_missing"


class ImageFetchFailed(ImageError):
    """The image's path or URI could not be read."""

    kind = "image_fetch_failed"


class ImageFetchRefused(ImageError):
    """The configuration does not let a row name this file or address."""

    kind = "image_fetch_refused"


class ImageUnreadable(ImageError):
    """The bytes are truncated, broken, or no image at all."""

    kind = "image_unreadable"


class ImageFormatRefused(ImageError):
    """An image, but of a format outside the allow-list."""

    kind = "image_format_refused"


class ImageTooLarge(ImageError):
    """More pixels or bytes than the limit: a decompression bomb, or a file nobody meant to send."""

    kind = "image_too_large"


class PromptError(RecordError):
    """Something about the record's prompt."""

    kind = "prompt"


class PromptMissing(PromptError):
    """Null, empty or blank."""

    kind = "prompt_missing"


class PromptInvalid(PromptError):
    """The prompt does not hold exactly one place for its image."""

    kind = "prompt_invalid"


class PromptTooLong(PromptError):
    """Prompt, image and answer do not fit into the model's context."""

    kind = "prompt_too_long"


class ValueInvalid(RecordError):
    """A per-record value (id, max_new_tokens, choices) is null or out of range."""

    kind = "value_invalid"


class RowTooLarge(RecordError):
    """The record alone needs more memory than the engine has."""

    kind = "row_too_large"


class NotFinite(RecordError):
    """The model's logits for this record are NaN or infinite: broken weights, or an overflow of the dtype."""

    kind = "not_finite"


class RequestRefused(RecordError):
    """The input itself says that this record is not to be answered, and why."""

    kind = "request_refused"


class Quarantined(RecordError):
    """The process that answered it died, again and again, with this record alone in it."""

    kind = "quarantined"
