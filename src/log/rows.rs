//! Reading records by key.

use crate::storage::records::OwnedRecord;
use crate::storage::{StorageError, View};

/// The record under a key of a view, verified.
pub(super) fn row_of_view<R: OwnedRecord>(
    view: &dyn View,
    key: &[u8],
) -> Result<Option<R>, StorageError> {
    view.get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}
