"""The Hugging Face hub and its cache folder: the one module that knows `huggingface_hub`.

That library reads HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, keeps the cache and draws the
progress bars. Here are the choice of files, downloads that survive an interruption, and the one
place where its exceptions become Fledge's.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_url,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined] # public, but exported lazily
    WeakFileLock,
    build_hf_headers,
    validate_repo_id,
)

from fledge.engine import folders
from fledge.errors import (
    CorruptModel,
    ModelGated,
    ModelLoadError,
    ModelNotFound,
    ModelOffline,
    UnsupportedModel,
)

USER_AGENT = "fledge"
TELEMETRY_VARIABLE = "HF_HUB_DISABLE_TELEMETRY"
SHA256 = re.compile("[0-9a-f]{64}")

LARGEST_OVER_HTTP = constants.MAX_HTTP_DOWNLOAD_SIZE
"""The hub serves larger files through its own protocol only, which huggingface_hub speaks."""

HUB_ERRORS = (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError)
"""What the client is known to raise: RuntimeError comes from its native downloader, ValueError
from a proxy that answers with a page where JSON was asked for."""


def check_id(model: str) -> None:
    """Refuse what cannot be a repository's id, before any network.

    Raises:
        ModelNotFound: with the rule that the id breaks.
    """
    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise ModelNotFound(
            f"{model!r} is neither an existing folder nor a possible id on the hub: {error}"
        ) from error


def cached(model: str) -> Path | None:
    """The model's snapshot in the cache, if a whole one is there. Never touches the network."""
    try:
        path = Path(
            snapshot_download(
                model, local_files_only=True, allow_patterns=list(folders.FILE_PATTERNS)
            )
        )
    except LocalEntryNotFoundError:
        return None
    return path if folders.what_is_missing(path) is None else None


def cached_models() -> list[tuple[str, Path]]:
    """Every whole model in the cache: id and snapshot, its `main` or else its newest revision."""
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        revisions = sorted(
            repository.revisions,
            key=lambda revision: ("main" in revision.refs, revision.last_modified),
            reverse=True,
        )
        whole = (
            revision.snapshot_path
            for revision in revisions
            if folders.what_is_missing(revision.snapshot_path) is None
        )
        snapshot = next(whole, None)
        if repository.repo_type == "model" and snapshot is not None:
            found.append((repository.repo_id, snapshot))
    return found


def download(model: str, *, may_download: Callable[[int], None] | None = None) -> Path:
    """Fetch what the cache lacks of the model's `main` and return the snapshot's folder.

    Args:
        model: `org/name`.
        may_download: called with the bytes of the weights before any of them are fetched; what it
            raises is raised here.

    Raises:
        ModelNotFound: the hub has no such repository.
        ModelGated: a token, or another token, is needed.
        ModelOffline: the network is switched off, or the hub out of reach.
        UnsupportedModel: the repository has no weights that Fledge opens.
        CorruptModel: what arrived is not what the hub announced.
        ModelLoadError: anything else, such as a full disk.
    """
    _switch_telemetry_off()
    with _errors_of_fledge(model):
        info = HfApi(user_agent=USER_AGENT).model_info(
            model, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        wanted = _wanted(model, info)
        if may_download is not None:
            may_download(
                sum(file.size or 0 for file in wanted if folders.has_weights([file.rfilename]))
            )
        for file in wanted:
            _fetch_large(model, info.sha or constants.DEFAULT_REVISION, file)
        names = [glob.escape(file.rfilename) for file in wanted]
        path = Path(snapshot_download(model, allow_patterns=names, user_agent=USER_AGENT))
    if missing := folders.what_is_missing(path):
        raise CorruptModel(f"{model}: the repository is not a whole model: {missing}")
    return path


@dataclass(frozen=True, slots=True)
class HubState:
    """What huggingface_hub made of its environment.

    Attributes:
        endpoint: the hub's address.
        is_offline: whether the network is switched off.
        has_token: whether there is a token; which one is nobody's business.
        cache: the folder of downloads.
    """

    endpoint: str
    is_offline: bool
    has_token: bool
    cache: Path


def state() -> HubState:
    """The hub's settings in force."""
    return HubState(
        endpoint=constants.ENDPOINT,
        is_offline=constants.is_offline_mode(),
        has_token=bool(get_token()),
        cache=Path(constants.HF_HUB_CACHE).expanduser(),
    )


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT or the public one."""
    return constants.ENDPOINT


def _switch_telemetry_off() -> None:
    """Keep huggingface_hub from describing this machine, unless the user set it otherwise.

    Without it, its first request fetches a list of coding tools from the hub, to look for them in
    the environment and name them in the user agent. The environment was read at its import.
    """
    if TELEMETRY_VARIABLE not in os.environ:
        constants.HF_HUB_DISABLE_TELEMETRY = True


def _wanted(model: str, info: ModelInfo) -> list[RepoSibling]:
    """The repository's files that Fledge reads, refused here if they cannot make a model."""
    files = {file.rfilename: file for file in info.siblings or []}
    names = folders.select(files)
    if folders.CONFIG_FILE not in names and folders.MODULES_FILE not in names:
        raise UnsupportedModel(
            f"{model} has neither {folders.CONFIG_FILE} nor {folders.MODULES_FILE}: "
            "it is no sentence-transformers or transformers model"
        )
    if not folders.has_weights(names):
        raise UnsupportedModel(
            f"{model} has neither {folders.WEIGHTS_FILE} nor {folders.TORCH_FILE}; nothing was "
            "downloaded. Take a revision or a copy of the model that has one of them"
        )
    return [files[name] for name in names]


def _fetch_large(model: str, revision: str, file: RepoSibling) -> None:
    """Put a large file where `snapshot_download` will find it, going on from a part of it.

    huggingface_hub 2.4 goes on within one process only: when that is stopped, it deletes what
    arrived. Weights are most of a download, so their part is kept here, in the cache's folder of
    blobs, and the SHA-256 that the hub announces is checked at the end.
    """
    lfs = file.lfs
    if lfs is None or not SHA256.fullmatch(lfs.sha256) or lfs.size > LARGEST_OVER_HTTP:
        return
    repository = repo_folder_name(repo_id=model, repo_type=constants.REPO_TYPE_MODEL)
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    blob = cache / repository / "blobs" / lfs.sha256
    lock = cache / ".locks" / repository / f"{blob.name}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        part = blob.with_name(f"{blob.name}.incomplete")
        _fill(part, hf_hub_url(model, file.rfilename, revision=revision), lfs.size, file.rfilename)
        if (digest := folders.sha256_of(part)) != lfs.sha256:
            part.unlink()
            raise CorruptModel(
                f"{model}: {file.rfilename} arrived with the SHA-256 {digest}, the hub announced "
                f"{lfs.sha256}; it was thrown away, so try again"
            )
        part.replace(blob)


def _fill(part: Path, url: str, size: int, name: str) -> None:
    """Download the rest of a file, as long as each new connection brings something."""
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            with part.open("ab") as file:
                http_get(
                    url,
                    file,
                    resume_size=before,
                    headers=build_hf_headers(user_agent=USER_AGENT),
                    expected_size=size,
                    displayed_filename=name,
                )
        except httpx2.NetworkError:
            # A reset connection: the one kind of interruption that http_get does not go on from.
            if part.stat().st_size <= before:
                raise
        else:
            return


@contextmanager
def _errors_of_fledge(model: str) -> Iterator[None]:
    try:
        yield
    except HUB_ERRORS as error:
        raise _translate(model, error) from error


def _translate(model: str, error: BaseException) -> ModelLoadError:
    """The one place where errors of the hub's client become Fledge's. Most specific first."""
    if isinstance(error, OfflineModeIsEnabled):
        return offline(model, "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) switches the network off")
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _translate(model, error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return _translate_status(model, error)
    if isinstance(error, httpx2.TransportError):
        return offline(model, f"{constants.ENDPOINT} cannot be reached ({_brief(error)})")
    return ModelLoadError(f"downloading {model} from {constants.ENDPOINT} failed: {_brief(error)}")


def _translate_status(model: str, error: HfHubHTTPError) -> ModelLoadError:
    status = error.response.status_code
    page = f"{constants.ENDPOINT}/{model}"
    if isinstance(error, GatedRepoError):
        return ModelGated(
            f"{model} is gated: accept its conditions at {page}, then set HF_TOKEN to a token of "
            "the account that did (or run `hf auth login`)"
        )
    if status == 404 or isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return ModelNotFound(
            f"there is no model {model!r} at {constants.ENDPOINT}, or it is private: check the "
            "spelling of the id; for a private one set HF_TOKEN; for a folder, give its path"
        )
    if status in {401, 403}:
        return ModelGated(
            f"{constants.ENDPOINT} refuses {model} to this token ({status}): set HF_TOKEN to one "
            f"that may read it, or see {page}"
        )
    if status == 429 or status >= 500:
        return offline(model, f"{constants.ENDPOINT} answers {status}; trying later may do")
    return ModelLoadError(f"downloading {model} from {constants.ENDPOINT} failed: {_brief(error)}")


def offline(model: str, why: str) -> ModelOffline:
    """The error for files that are not here and cannot be fetched: says what to do."""
    return ModelOffline(
        f"{model} is not on this machine as a whole, and {why}. Either let it download (unset "
        f"HF_HUB_OFFLINE, check the network), or run `fledge pull {model}` on a machine with a "
        "connection and bring its cache along (HF_HOME says where it is, now "
        f"{constants.HF_HOME}), or give the path of a folder that holds the model"
    )


def _brief(error: BaseException) -> str:
    """The first line of an error, which for the hub's client is the one about the matter."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
