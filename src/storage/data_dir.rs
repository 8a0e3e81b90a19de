//! A node's data directory: whose it is, and that nobody else uses it.

mod ballast;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::small_file::{DiskFile, MemoryFile, SmallFile, sync_folder};
use super::{StorageError, free_bytes};
use crate::types::{ClusterId, Incarnation, NodeId};

/// Version of everything below a data directory.
const FORMAT_VERSION: u32 = 1;
const CHECKSUM_LINE: &str = "# crc32c ";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operating system refused.
    #[error("cannot use the data directory {}: {action}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("the data directory {} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another node.
    #[error("the data directory {} belongs to node {found}, and this is node {asked}", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        asked: NodeId,
    },
    /// Damage was found in it while a node ran.
    #[error("the data directory {} was found damaged: {reason}", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The identity cannot be trusted.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Who a node is, kept in `IDENTITY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the whole directory.
    pub format_version: u32,
    /// Which node.
    pub node: NodeId,
    /// The cluster it belongs to, once it was taken into one.
    #[serde(default, with = "cluster_text")]
    pub cluster: Option<ClusterId>,
    /// Incarnation of its replica of the meta group.
    #[serde(default)]
    pub meta_incarnation: Option<Incarnation>,
    /// Where the nodes were when it was taken in: used until the topology tells.
    #[serde(default)]
    pub peers: Vec<(NodeId, String)>,
}

mod cluster_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::ClusterId;

    pub fn serialize<S: Serializer>(id: &Option<ClusterId>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&id.map(|id| id.to_string()).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClusterId>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

impl Identity {
    fn of_new(node: NodeId) -> Self {
        Identity {
            format_version: FORMAT_VERSION,
            node,
            cluster: None,
            meta_incarnation: None,
            peers: Vec::new(),
        }
    }

    fn encode(&self) -> String {
        let body = toml::to_string(self).expect("an identity serializes without failure");
        format!("{body}{CHECKSUM_LINE}{:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    fn decode(text: &[u8], place: &str) -> Result<Self, StorageError> {
        let damaged = |reason: &str| StorageError::Damaged {
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        let text = std::str::from_utf8(text).map_err(|_| damaged("it is not UTF-8"))?;
        let (body, checksum) =
            text.rsplit_once(CHECKSUM_LINE).ok_or_else(|| damaged("it has no checksum"))?;
        if checksum.trim() != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("its checksum does not match"));
        }
        let identity: Identity =
            toml::from_str(body).map_err(|error| damaged(&error.to_string()))?;
        if identity.format_version > FORMAT_VERSION {
            let (found, known) = (identity.format_version, FORMAT_VERSION);
            return Err(StorageError::Newer { what: "the data directory", found, known });
        }
        Ok(identity)
    }
}

/// An open data directory. Its lock is held until this is dropped.
pub struct DataDir {
    identity: Box<dyn SmallFile>,
    damage: Box<dyn SmallFile>,
    disk: Disk,
}

/// What a data directory is on.
enum Disk {
    Real {
        path: PathBuf,
        _lock: File,
    },
    /// A simulated one; how many bytes it has free is said from outside.
    Simulated {
        free_bytes: Arc<AtomicU64>,
    },
}

/// What a simulated node has beside its databases. Clones are the same files, as after a restart.
#[derive(Clone)]
pub struct MemoryDir {
    /// Who the node is.
    pub identity: MemoryFile,
    /// Why the data cannot be relied on.
    pub damage: MemoryFile,
    /// Free space of its disk.
    pub free_bytes: Arc<AtomicU64>,
}

impl Default for MemoryDir {
    /// Of a new node, on a disk that is never full.
    fn default() -> Self {
        let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
        MemoryDir { identity: MemoryFile::default(), damage: MemoryFile::default(), free_bytes }
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the data directory of {}", self.identity.place())
    }
}

impl DataDir {
    /// Opens or creates a node's directory. Blocks.
    ///
    /// # Errors
    /// The directory is in use, belongs to another node, or cannot be read or written.
    pub fn open(path: &Path, node: NodeId) -> Result<(DataDir, Identity), DataDirError> {
        let io = |action| move |source| DataDirError::Io { path: path.to_owned(), action, source };
        // The names below it are durable once there is an identity, which is written after them.
        if !path.join("IDENTITY").exists() {
            make_folder(path).map_err(io("creating it"))?;
        }
        fs::create_dir_all(path.join("log")).map_err(io("creating it"))?;
        fs::create_dir_all(path.join("state")).map_err(io("creating it"))?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join("LOCK"));
        let lock = lock.map_err(io("opening LOCK"))?;
        take(&lock, FlockOperation::NonBlockingLockExclusive, path)?;
        let data_dir = DataDir {
            identity: Box::new(DiskFile::new(path.join("IDENTITY"))),
            damage: Box::new(DiskFile::new(path.join("DAMAGED"))),
            disk: Disk::Real { path: path.to_owned(), _lock: lock },
        };
        data_dir.identify(path, node)
    }

    /// Opens or creates the directory of a simulated node.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn open_in_memory(
        dir: &MemoryDir,
        node: NodeId,
    ) -> Result<(DataDir, Identity), DataDirError> {
        let data_dir = DataDir {
            identity: Box::new(dir.identity.clone()),
            damage: Box::new(dir.damage.clone()),
            disk: Disk::Simulated { free_bytes: dir.free_bytes.clone() },
        };
        data_dir.identify(Path::new("in memory"), node)
    }

    /// Reads whose it is, and makes it the node's if it is nobody's.
    fn identify(self, path: &Path, node: NodeId) -> Result<(DataDir, Identity), DataDirError> {
        let path = || path.to_owned();
        if let Some(reason) = self.damage.load()? {
            let reason = String::from_utf8_lossy(&reason).into_owned();
            return Err(DataDirError::Damaged { path: path(), reason });
        }
        let identity = match read_identity(self.identity.as_ref())? {
            Some(identity) => identity,
            None => {
                let identity = Identity::of_new(node);
                self.save_identity(&identity)?;
                identity
            }
        };
        if identity.node != node {
            let found = identity.node;
            return Err(DataDirError::OtherNode { path: path(), found, asked: node });
        }
        Ok((self, identity))
    }

    /// Keeps an identity: on stable storage when this returns. Blocks.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), StorageError> {
        self.identity.replace(identity.encode().as_bytes())
    }

    /// Notes that the data was found damaged: on stable storage when this returns, and refused from then on. A restart
    /// would not meet the same damage until something reads it. The ballast is given up for it if need be. Blocks.
    pub fn mark_damaged(&self, reason: &str) -> Result<(), StorageError> {
        self.damage.replace(reason.as_bytes()).or_else(|error| {
            if !self.gives_back_ballast() {
                return Err(error);
            }
            self.damage.replace(reason.as_bytes())
        })
    }

    /// Makes sure that there is a file of this size that people can delete when the disk is full; 0 is none. One that is
    /// not there is made only where it leaves at least `left_bytes` free, so that it does not fill the disk itself. Blocks.
    ///
    /// # Errors
    /// There is too little room, or the operating system refuses: the directory is then without such a file.
    pub fn keep_ballast(&self, bytes: u64, left_bytes: u64) -> io::Result<()> {
        match &self.disk {
            Disk::Real { path, .. } => ballast::keep(path, bytes, left_bytes),
            Disk::Simulated { .. } => Ok(()),
        }
    }

    /// Gives the ballast up; false if there is none, or it stays.
    fn gives_back_ballast(&self) -> bool {
        match &self.disk {
            Disk::Real { path, .. } => ballast::give_back(path).unwrap_or(false),
            Disk::Simulated { .. } => false,
        }
    }

    /// Bytes that may still be written to its disk. Answered from memory: it does not wait for the disk.
    pub fn free_bytes(&self) -> io::Result<u64> {
        match &self.disk {
            Disk::Real { path, .. } => free_bytes(path),
            Disk::Simulated { free_bytes } => Ok(free_bytes.load(Ordering::Relaxed)),
        }
    }
}

/// The directory of a node that is stopped, of which nothing is changed. No node starts on it until this is dropped.
#[derive(Debug)]
pub struct StoppedDir {
    /// Who the node is; none in a directory that has no identity.
    pub identity: Option<Identity>,
    /// What was found damaged while a node ran. A node refuses to start on it.
    pub damage: Option<String>,
    _lock: Option<File>,
}

impl StoppedDir {
    /// Opens a directory that is there, and creates nothing in it. Blocks.
    ///
    /// # Errors
    /// A node has it open, or it cannot be read.
    pub fn open(path: &Path) -> Result<StoppedDir, DataDirError> {
        let lock = match File::open(path.join("LOCK")) {
            Ok(lock) => Some(lock),
            // A copy may have been made without it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                let (path, action) = (path.to_owned(), "opening LOCK");
                return Err(DataDirError::Io { path, action, source });
            }
        };
        if let Some(lock) = &lock {
            // Shared: several may look at once.
            take(lock, FlockOperation::NonBlockingLockShared, path)?;
        }
        let damage = DiskFile::new(path.join("DAMAGED")).load()?;
        Ok(StoppedDir {
            identity: read_identity(&DiskFile::new(path.join("IDENTITY")))?,
            damage: damage.map(|reason| String::from_utf8_lossy(&reason).into_owned()),
            _lock: lock,
        })
    }
}

fn take(lock: &File, how: FlockOperation, path: &Path) -> Result<(), DataDirError> {
    rustix::fs::flock(lock, how).map_err(|_| DataDirError::Locked { path: path.to_owned() })
}

/// Makes a folder, and those above it that are missing. Each name is durable before anything is made below it, so that
/// of the folders that are there already only the lowest may be what a crash has left: its name is synced too.
fn make_folder(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let made = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(parent)?;
            fs::create_dir(path)
        }
        made => made,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            match sync_folder(parent) {
                // Then somebody else has made it, or it is where a disk is mounted in what cannot be written.
                Err(error) if is_out_of_reach(&error) => Ok(()),
                synced => synced,
            }
        }
        Err(error) => Err(error),
        Ok(()) => sync_folder(parent),
    }
}

/// Whether syncing a folder failed because this node could never have made a name in it.
fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem)
}

fn read_identity(file: &dyn SmallFile) -> Result<Option<Identity>, StorageError> {
    file.load()?.map(|text| Identity::decode(&text, &file.place())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_IDENTITY: &str = r#"format_version = 1
node = 1
cluster = "0000000000000000000000000000002a"
meta_incarnation = 3
peers = [[2, "127.0.0.1:7202"]]
# crc32c f8418340
"#;

    #[test]
    fn a_directory_is_one_nodes_and_one_processs() {
        let folder = tempfile::tempdir().unwrap();
        let (open, mut identity) = DataDir::open(folder.path(), NodeId(1)).unwrap();
        let twice = DataDir::open(folder.path(), NodeId(1));
        assert!(matches!(twice, Err(DataDirError::Locked { .. })), "{twice:?}");
        identity.cluster = Some(ClusterId(42));
        identity.meta_incarnation = Some(Incarnation(3));
        identity.peers = vec![(NodeId(2), "127.0.0.1:7202".to_owned())];
        open.save_identity(&identity).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("IDENTITY")).unwrap(), GOLDEN_IDENTITY);
        drop(open);
        let other = DataDir::open(folder.path(), NodeId(2));
        assert!(matches!(other, Err(DataDirError::OtherNode { .. })), "{other:?}");
        let (_open, again) = DataDir::open(folder.path(), NodeId(1)).unwrap();
        assert_eq!(again, identity);
    }

    #[test]
    fn a_stopped_nodes_directory_is_looked_at_without_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let looked = StoppedDir::open(folder.path()).unwrap();
        assert_eq!((&looked.identity, &looked.damage), (&None, &None));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created");

        let (open, identity) = DataDir::open(folder.path(), NodeId(1)).unwrap();
        let refused = StoppedDir::open(folder.path());
        assert!(matches!(refused, Err(DataDirError::Locked { .. })), "{refused:?}");
        open.mark_damaged("a block does not have its checksum").unwrap();
        drop(open);
        let looked = StoppedDir::open(folder.path()).unwrap();
        assert_eq!(looked.identity, Some(identity));
        assert_eq!(looked.damage.as_deref(), Some("a block does not have its checksum"));
        let _another = StoppedDir::open(folder.path()).unwrap();
        let started = DataDir::open(folder.path(), NodeId(1));
        assert!(matches!(started, Err(DataDirError::Locked { .. })), "{started:?}");
    }

    #[test]
    fn folders_above_it_are_made_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("of").join("some").join("node");
        drop(DataDir::open(&path, NodeId(1)).unwrap());
        drop(DataDir::open(&path, NodeId(1)).unwrap());
        fs::write(folder.path().join("file"), b"").unwrap();
        for beneath in ["file", "file/node"] {
            let refused = DataDir::open(&folder.path().join(beneath), NodeId(1));
            assert!(matches!(refused, Err(DataDirError::Io { .. })), "{refused:?}");
        }
    }

    #[test]
    fn damage_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (open, _) = DataDir::open(folder.path(), NodeId(1)).unwrap();
        open.mark_damaged("a block does not have its checksum").unwrap();
        drop(open);
        let refused = DataDir::open(folder.path(), NodeId(1)).unwrap_err();
        assert!(refused.to_string().ends_with("a block does not have its checksum"), "{refused}");
    }

    #[test]
    fn a_changed_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), NodeId(1)).unwrap());
        let path = folder.path().join("IDENTITY");
        let text = fs::read_to_string(&path).unwrap().replace("node = 1", "node = 2");
        fs::write(&path, text).unwrap();
        let refused = DataDir::open(folder.path(), NodeId(2));
        assert!(matches!(refused, Err(DataDirError::Storage(StorageError::Damaged { .. }))));
    }
}
