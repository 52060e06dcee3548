"""Everything that can go wrong, named for what happened.

Nothing here knows HTTP: `fledge.api.errors` holds the one table that gives each class its status
and body; one without a row of its own is answered as its parent. A message says what was wrong, the
limit, the value, and what to do.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fledge.types import LimitName, Standing


class FledgeError(Exception):
    """The base of every error that Fledge raises on purpose."""

    code: ClassVar[str] = "fledge_error"


class InvalidRequest(FledgeError):
    """The request cannot be answered as it stands; the caller can mend it.

    Attributes:
        field: the name of the field at fault, as the caller spelled it, or None for the whole body.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MalformedBody(InvalidRequest):
    """The body is not JSON, not UTF-8, or not the kind of JSON value that the route takes."""

    code = "malformed_body"


class EmptyInput(InvalidRequest):
    """There is nothing to embed: an empty list, an empty string, or an empty list of token ids."""

    code = "empty_input"


class InputTooLong(InvalidRequest):
    """A text has more tokens than the model takes, and the caller asked not to cut it."""

    code = "input_too_long"


class TooManyInputs(InvalidRequest):
    """One request carries more inputs, or more tokens in all, than the limits allow."""

    code = "too_many_inputs"


class BodyTooLarge(InvalidRequest):
    """The body has more bytes than the limits allow."""

    code = "body_too_large"


class UnknownPrompt(InvalidRequest):
    """The model's card lists no prompt of that name."""

    code = "unknown_prompt"


class UnknownField(InvalidRequest):
    """The body has a field that Fledge does not know, and `strict_fields` is on."""

    code = "unknown_field"


class StorageQuotaExceeded(InvalidRequest):
    """The caller would keep more bytes of files than it may."""

    code = "storage_quota_exceeded"


class UnknownModel(FledgeError):
    """No model of that name is served here."""

    code = "model_not_found"


class UnknownFile(FledgeError):
    """The caller has no file of that id."""

    code = "file_not_found"


class UnknownBatch(FledgeError):
    """The caller has no batch of that id."""

    code = "batch_not_found"


class FileInUse(FledgeError):
    """A batch that has not ended reads the file."""

    code = "file_in_use"


class BatchEnded(FledgeError):
    """The batch has ended, and cannot be cancelled any more."""

    code = "batch_ended"


class StorageUnavailable(FledgeError):
    """The folder of files and batches cannot be read or written: it is full, or worse."""

    code = "storage_unavailable"


class NotAllowed(FledgeError):
    """A keyless instance was called under a Host or from an Origin that it does not trust."""

    code = "not_allowed"


class TryLater(FledgeError):
    """Nothing is wrong with the request, but it cannot be answered now.

    Attributes:
        retry_after_s: seconds after which the caller may try again.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(TryLater):
    """More work is waiting than may wait."""

    code = "overloaded"


class DeadlineExceeded(FledgeError):
    """The request's time was over before its answer was ready."""

    code = "deadline_exceeded"


class ModelLoadError(FledgeError):
    """A model could not be brought up.

    Attributes:
        retry_after_s: of a failure that is remembered, seconds until it will be tried again.
    """

    code = "model_load_failed"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelNotFound(ModelLoadError):
    """Neither a local folder nor a repository of that name exists."""

    code = "model_files_not_found"


class ModelOffline(ModelLoadError):
    """The files are not on this machine, and the hub is switched off or out of reach."""

    code = "model_offline"


class ModelGated(ModelLoadError):
    """The hub asks for a token, or for its licence to be accepted."""

    code = "model_gated"


class CorruptModel(ModelLoadError):
    """The model's files are damaged, truncated, or contradict each other."""

    code = "model_corrupt"


class UnsupportedModel(ModelLoadError):
    """The model asks for arithmetic that Fledge does not have; the message names it."""

    code = "model_unsupported"


class OutOfMemory(ModelLoadError):
    """The model needs more memory than models may take here, or than there is."""

    code = "model_out_of_memory"


class ModelLoading(FledgeError):
    """The model is being loaded, and the caller would not wait longer.

    Attributes:
        estimated_time_s: about how much longer loading will take, in seconds.
    """

    code = "model_loading"

    def __init__(self, model: str, *, estimated_time_s: float) -> None:
        super().__init__(f"Model {model} is currently loading")
        self.estimated_time_s = estimated_time_s


class BackendUnavailable(FledgeError):
    """The deployment cannot take work: it is being unloaded, or it died."""

    code = "backend_unavailable"


class CannotCarry(InvalidRequest):
    """The provider cannot be asked for this, such as token ids; another deployment may be."""

    code = "not_carried"


class ProviderError(FledgeError):
    """A provider did not answer as it should.

    The message holds at most a short line of the provider's own words, and neither a text nor a
    key.

    Attributes:
        provider: its name.
        status: what it answered with; None: with nothing that can be read.
        retry_after_s: seconds after which it may be asked again, if it said so.
    """

    code = "provider_failed"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.retry_after_s = retry_after_s


class ProviderUnavailable(ProviderError):
    """It cannot be reached, is too slow or too busy, failed, or gave an answer that is none."""

    code = "provider_unavailable"


class ProviderRefused(ProviderError):
    """It refused what the caller sent; another provider of the same model would too."""

    code = "provider_refused"


class ProviderDenied(ProviderRefused):
    """It refused this server: the key, the plan, the address or the model's name there is wrong.

    For the operator to mend. Another deployment may answer meanwhile, and the caller is not told
    the provider's words.
    """

    code = "provider_denied"


class Stopping(FledgeError):
    """The server is about to exit: it takes no more requests, or gave this one up."""

    code = "stopping"


class ComputeError(FledgeError):
    """The engine failed on work that it had accepted, or its result is not finite."""

    code = "compute_failed"


class SettingsError(FledgeError):
    """A setting is unknown, malformed or out of range."""

    code = "invalid_setting"


class ServerUnreachable(FledgeError):
    """Nobody answers at the address where a running server was expected."""

    code = "server_unreachable"


class ServerRefused(FledgeError):
    """A running server answered a command with an error, in its own words or in none."""

    code = "server_refused"


class FileFormatError(FledgeError):
    """A file cannot be read or written in the form that was asked for."""

    code = "file_format"


class Unauthorized(FledgeError):
    """The request carries a key that is unknown, revoked or expired."""

    code = "invalid_api_key"


class KeyMissing(Unauthorized):
    """The request carries no key, and this server asks for one."""

    code = "missing_api_key"


class Forbidden(FledgeError):
    """The key is valid, and this is beyond its scopes or its models."""

    code = "forbidden"


class KeyNotFound(FledgeError):
    """There is no key of that id or name."""

    code = "key_not_found"


class KeyNameTaken(InvalidRequest):
    """A key that is not revoked has that name already."""

    code = "key_name_taken"


class DatabaseUnavailable(FledgeError):
    """The accounts' database cannot be reached, or does not do what it is asked."""

    code = "database_unavailable"


class DatabaseTooNew(DatabaseUnavailable):
    """A newer version of Fledge has changed the database's tables."""

    code = "database_too_new"


class LimitExceeded(FledgeError):
    """A holder has used up what it may use of something.

    Attributes:
        limit: what it is; `allowed` of it there is, and `used` was used, without this request.
        retry_after_s: seconds after which the same request would pass, if nothing else is asked
            meanwhile; None: it never would.
        standing: for the headers.
    """

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        limit: "LimitName",
        allowed: int,
        used: int,
        retry_after_s: float | None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed
        self.used = used
        self.retry_after_s = retry_after_s
        self.standing: Standing | None = None


class ConcurrencyExceeded(LimitExceeded):
    """As many requests of the holder are running as may."""

    code = "concurrency_limit_exceeded"


class BudgetExceeded(LimitExceeded):
    """The month's tokens or money are used up."""

    code = "insufficient_quota"


class LimitsUnavailable(TryLater):
    """The store of the limits does not answer, and nothing may pass without it."""

    code = "limits_unavailable"
