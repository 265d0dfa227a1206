"""What goes wrong while an image file is read, in words that name the file and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError


@contextmanager
def unreadable_as_dataset_error(what: str) -> Iterator[None]:
    """Turn the errors of opening and decoding an image file into a `DatasetError`.

    Args:
        what: the file, for the message: ``"the image PATH"``.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: it is truncated or no image.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetFileNotFoundError(
            f"{what} does not exist; datasets/README.md shows where it belongs, and "
            "datasets/check.py lists what else is missing"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(
            f"{what} can't be decoded ({error}); it is truncated or no image. Unpack or download "
            "it again; datasets/check.py --full finds all such files"
        ) from error
