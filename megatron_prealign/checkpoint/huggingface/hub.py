"""Upload a finished folder to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from megatron_prealign.errors import CheckpointError


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a folder; a missing repository is created as private.

    Args:
        folder: a complete Hugging Face folder.
        repository: OWNER/NAME. The token is huggingface_hub's own: HF_TOKEN, or that of `hf auth login`.

    Returns:
        The address of the upload.

    Raises:
        CheckpointError: it was not uploaded; the folder stays as it is.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add model")
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(f"not uploaded to {repository}: {error}; the folder {folder} is complete") from error
    return str(commit.commit_url)
