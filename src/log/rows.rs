//! Reading records by key.

use crate::storage::records::{ConversationHead, OwnedRecord};
use crate::storage::{Overlay, StorageError, View, keys};
use crate::types::ConversationId;

/// The record under a key of a view, verified.
pub(super) fn row_of_view<R: OwnedRecord>(
    view: &dyn View,
    key: &[u8],
) -> Result<Option<R>, StorageError> {
    view.get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}

/// The head under a conversation's id. Its name has still to be compared.
pub(super) fn read_head(
    overlay: &Overlay<'_>,
    conversation: ConversationId,
) -> Result<Option<ConversationHead>, StorageError> {
    overlay.row(&keys::conversation(conversation))
}
