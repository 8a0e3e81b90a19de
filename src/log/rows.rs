//! Reading and writing records by key, over a view as over an overlay.

use bytes::Bytes;

use crate::storage::records::{ConversationHead, Record};
use crate::storage::{Overlay, StorageError, Table, View, keys};
use crate::types::ConversationId;

/// The record under a key, verified.
pub(super) fn read_row<R: Record>(
    key: &[u8],
    get: impl FnOnce(Table, &[u8]) -> Result<Option<Bytes>, StorageError>,
) -> Result<Option<R>, StorageError> {
    get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}

/// The record under a key of a view, verified.
pub(super) fn row_of_view<R: Record>(
    view: &dyn View,
    key: &[u8],
) -> Result<Option<R>, StorageError> {
    read_row(key, |table, key| view.get(table, key))
}

/// Sets the record under a key.
pub(super) fn put_row<R: Record>(overlay: &mut Overlay<'_>, key: Vec<u8>, row: &R) {
    let value = row.encode(&key);
    overlay.put(R::TABLE, key, value);
}

/// The head under a conversation's id. Its name has still to be compared.
pub(super) fn read_head(
    overlay: &Overlay<'_>,
    conversation: ConversationId,
) -> Result<Option<ConversationHead>, StorageError> {
    read_row(&keys::conversation(conversation), |table, key| overlay.get(table, key))
}
