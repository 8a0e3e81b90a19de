use super::{Batch, Durability, StorageError, Table};
use crate::seams::planted;

/// Which of a node's two databases. They differ in how writes become durable, so that a write of one kind into the
/// other database is an error in every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Raft logs and votes: every write is synced.
    Log,
    /// What was applied: no write-ahead log, durable by flush, replayed from the Raft log after a crash.
    State,
}

impl Database {
    /// The tables it holds.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Database::Log => Table::LOG,
            Database::State => Table::STATE,
        }
    }

    /// The tables that a flush makes durable: all of them.
    pub fn flushed_tables(self) -> &'static [Table] {
        match self {
            Database::State if planted::flush_single_family() => &[Table::Groups, Table::Topology],
            _ => self.tables(),
        }
    }

    /// Refuses a table of the other database.
    pub fn check_table(self, table: Table) -> Result<(), StorageError> {
        if self.tables().contains(&table) {
            return Ok(());
        }
        Err(StorageError::Failed {
            action: "choosing a table",
            reason: format!("{} is not in the {self:?} database", table.name()),
        })
    }

    /// Refuses a batch that the other database should have got.
    pub fn check(self, batch: &Batch, durability: Durability) -> Result<(), StorageError> {
        for op in &batch.ops {
            self.check_table(op.table())?;
        }
        match (self, durability) {
            (Database::Log, Durability::Synced) | (Database::State, Durability::Flushed) => Ok(()),
            _ => Err(StorageError::Failed {
                action: "writing",
                reason: format!("the {self:?} database knows no {durability:?} writes"),
            }),
        }
    }
}
