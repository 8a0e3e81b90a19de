//! What a node's data lies on: a file system of its own, whose power can be cut and which can be filled; or a plain
//! folder, where a cut of power is imitated by shortening each file to what was synced.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::shim::{Compiled, Shim};
use crate::programs::run;

/// Size of a node's file system. Its file takes only what is used of it.
pub const DISK_BYTES: u64 = 640 * 1024 * 1024;
/// How the file is called that a disk lies in.
const IMAGE: &str = "img";
/// The file that fills a disk.
const FILLING: &str = "filling";
/// The file in a node's data that is there to be given up.
const BALLAST: &str = "ballast";

/// A node's disk.
pub struct Disk {
    /// Where it is seen; the node's data directory is `data` in it.
    folder: PathBuf,
    image: Option<Image>,
}

struct Image {
    file: PathBuf,
    powercut: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// A file system of its own in a file beside `folder`, mounted there. Has to be in a mount namespace that ends
    /// with the run.
    ///
    /// # Errors
    ///
    /// If it cannot be made or mounted.
    pub async fn mounted(folder: PathBuf, compiled: &Compiled) -> anyhow::Result<Disk> {
        std::fs::create_dir_all(&folder)?;
        let file = folder.with_extension(IMAGE);
        std::fs::File::create(&file)?.set_len(DISK_BYTES)?;
        let make = ["-q", "-F", "-m", "0"].map(PathBuf::from);
        run("mkfs.ext4", make.iter().chain([&file])).await?;
        let powercut = compiled.powercut.clone();
        let image = Image { file, powercut, is_mounted: false };
        let mut disk = Disk { folder, image: Some(image) };
        disk.mount().await?;
        std::fs::create_dir(disk.data())?;
        // The folder has to survive a cut like one that was made long ago.
        run("sync", [&disk.folder]).await?;
        Ok(disk)
    }

    /// A plain folder.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn plain(folder: PathBuf) -> anyhow::Result<Disk> {
        std::fs::create_dir_all(folder.join("data"))?;
        Ok(Disk { folder, image: None })
    }

    /// The node's data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Whether it is a file system of its own.
    pub fn is_own(&self) -> bool {
        self.image.is_some()
    }

    /// Mounts it, if it is a file system of its own that is not.
    ///
    /// # Errors
    ///
    /// If it cannot be mounted.
    pub async fn mount(&mut self) -> anyhow::Result<()> {
        let Some(image) = &mut self.image else { return Ok(()) };
        if !image.is_mounted {
            // Nothing is written but what is synced, as far as that can be had.
            let how = ["-o", "loop,commit=600"].map(PathBuf::from);
            run("mount", how.iter().chain([&image.file, &self.folder])).await?;
            image.is_mounted = true;
        }
        Ok(())
    }

    /// Loses what was not synced. The node must be dead. Says what was lost, as far as that can be told.
    ///
    /// # Errors
    ///
    /// If the file system cannot be shut down or mounted again.
    pub async fn lose_power(&mut self, shim: Option<&Shim>) -> anyhow::Result<u64> {
        self.mount().await?;
        // Not what fills it: that is no loss.
        let before = bytes_below(&self.data());
        let Some(image) = &mut self.image else {
            let shim = shim.context("a cut of power needs a disk of its own or the shim")?;
            return shorten_to_synced(&self.data(), shim);
        };
        run(&image.powercut.to_string_lossy(), [&self.folder]).await?;
        run("umount", [&self.folder]).await?;
        image.is_mounted = false;
        self.mount().await?;
        let after = bytes_below(&self.data());
        Ok(before.saturating_sub(after))
    }

    /// Fills it until this many bytes are free. Returns how many are.
    ///
    /// # Errors
    ///
    /// If it is not a file system of its own, or cannot be written.
    pub async fn fill(&self, leave_bytes: u64) -> anyhow::Result<u64> {
        anyhow::ensure!(self.is_own(), "only a disk of its own is filled");
        let excess = self.free_bytes()?.saturating_sub(leave_bytes);
        let file = self.folder.join(FILLING);
        let length = excess.to_string();
        run("fallocate", ["-l", &length, &file.to_string_lossy()]).await?;
        self.free_bytes()
    }

    /// Fills what is free to the last byte, again and again while it is in use. Returns how many bytes are free then.
    ///
    /// # Errors
    ///
    /// If it is not a file system of its own, is not mounted, or cannot be written.
    pub fn fill_up(&self) -> anyhow::Result<u64> {
        // Where nothing is mounted, the disk of this machine is.
        let is_mounted = self.image.as_ref().is_some_and(|image| image.is_mounted);
        anyhow::ensure!(is_mounted, "only a disk of its own is filled");
        let file = self.folder.join(FILLING);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
        let mut step = u64::MAX;
        loop {
            step = step.min(self.free_bytes()?);
            if step == 0 {
                return self.free_bytes();
            }
            match fallocate(&file, FallocateFlags::empty(), file.metadata()?.len(), step) {
                Ok(()) => {}
                // What the file system needs to find it again takes room too.
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the node's ballast, as people do where a disk is full. How many bytes that gave back; 0 if there was none.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn give_up_ballast(&self) -> anyhow::Result<u64> {
        let ballast = self.data().join(BALLAST);
        let Ok(about) = ballast.metadata() else { return Ok(0) };
        std::fs::remove_file(ballast)?;
        Ok(about.len())
    }

    /// Takes away what filled it.
    ///
    /// # Errors
    ///
    /// If that cannot be removed.
    pub fn empty(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.folder.join(FILLING)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Bytes that are free.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let about = statvfs(&self.folder)?;
        Ok(about.f_bavail * about.f_frsize)
    }

    /// Removes everything that the node kept. The node must not run.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn wipe(&self) -> anyhow::Result<u64> {
        let bytes = bytes_below(&self.data());
        std::fs::remove_dir_all(self.data())?;
        std::fs::create_dir(self.data())?;
        Ok(bytes)
    }

    /// Removes everything but the file that says which node of which cluster this is.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn wipe_but_identity(&self) -> anyhow::Result<u64> {
        let identity = self.data().join("IDENTITY");
        let kept = std::fs::read(&identity)?;
        let bytes = self.wipe()?;
        std::fs::write(&identity, kept)?;
        Ok(bytes)
    }

    /// Puts a copy of what the node kept beside its disk, so that it can be looked at after the run.
    ///
    /// # Errors
    ///
    /// If it cannot be copied.
    pub async fn keep(&self) -> anyhow::Result<()> {
        let copy = self.folder.with_extension("data");
        run("cp", [Path::new("-a"), &self.data(), &copy]).await.map(|_| ())
    }

    /// Takes it away. The node must not run.
    ///
    /// # Errors
    ///
    /// If it cannot be unmounted or removed.
    pub async fn remove(&mut self) -> anyhow::Result<()> {
        if let Some(image) = &mut self.image {
            if image.is_mounted {
                run("umount", [&self.folder]).await?;
                image.is_mounted = false;
            }
            std::fs::remove_file(&image.file)?;
        }
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

/// Removes the disks that are left of a run. What of them is mounted goes with the namespace that it is mounted in.
pub fn remove_images(run: &Path) {
    for entry in std::fs::read_dir(run.join("nodes")).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|ending| ending == IMAGE) {
            // One that stays takes room, and nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// All files below a folder, with what the system says of each.
pub fn files_below(folder: &Path) -> Vec<(PathBuf, std::fs::Metadata)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else { continue };
            match about.is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.path(), about)),
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn bytes_below(folder: &Path) -> u64 {
    files_below(folder).iter().map(|(_, about)| about.len()).sum()
}

/// Shortens each file to what was synced. One that never was is as good as empty.
fn shorten_to_synced(data: &Path, shim: &Shim) -> anyhow::Result<u64> {
    let synced = shim.synced()?;
    let mut lost = 0;
    for (path, about) in files_below(data) {
        let kept = synced.get(&about.ino()).copied().unwrap_or(0);
        if kept < about.len() {
            lost += about.len() - kept;
            std::fs::OpenOptions::new().write(true).open(&path)?.set_len(kept)?;
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_this_machine_is_never_filled_up() {
        let dir = tempfile::tempdir().unwrap();
        let plain = Disk::plain(dir.path().to_owned()).unwrap();
        let image = Image { file: PathBuf::new(), powercut: PathBuf::new(), is_mounted: false };
        let unmounted = Disk { folder: dir.path().to_owned(), image: Some(image) };
        for disk in [plain, unmounted] {
            assert!(disk.fill_up().is_err());
            assert!(!dir.path().join(FILLING).exists());
        }
    }
}
