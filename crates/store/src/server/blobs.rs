//! Content-addressed files of little-endian f32 values: models and updates.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use consilium_core::Digest;
use sha2::{Digest as _, Sha256};

use super::ServerStoreError;

/// A folder of blobs. The name of each is the SHA-256 of its content.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    /// Bytes after which writing fails as on a full disk.
    room: Option<u64>,
    next_temporary: AtomicU64,
}

/// A blob on its way. Dropping it leaves nothing behind.
pub struct BlobWriter<'a> {
    blobs: &'a Blobs,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    /// Whether everything written is on the disk.
    synced: bool,
}

/// A blob that is read from its beginning to its end, and then known to be what its name says.
pub struct BlobReader {
    name: Digest,
    path: PathBuf,
    /// Bytes read so far.
    position: u64,
    hasher: Sha256,
}

impl Blobs {
    /// Opens `folder`, and removes what an earlier process did not finish.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub fn open(folder: &Path) -> Result<Self, ServerStoreError> {
        let blobs = Self::open_beside_server(folder);
        let failed = |error| ServerStoreError::file(folder, error);
        fs::create_dir_all(folder).map_err(failed)?;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "part")
            {
                fs::remove_file(&path).map_err(|error| ServerStoreError::file(&path, error))?;
            }
        }
        Ok(blobs)
    }

    /// The folder of a server that may be running: nothing is made or removed.
    #[must_use]
    pub fn open_beside_server(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            room: None,
            next_temporary: AtomicU64::new(0),
        }
    }

    /// The same folder with room for `bytes` in each blob, to see what a full disk does.
    #[must_use]
    pub fn with_room_for(mut self, bytes: u64) -> Self {
        self.room = Some(bytes);
        self
    }

    /// Whether the blob is there.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub fn create(&self) -> Result<BlobWriter<'_>, ServerStoreError> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number}.part"));
        let file = File::create(&path).map_err(|error| ServerStoreError::file(&path, error))?;
        Ok(BlobWriter {
            blobs: self,
            path,
            file,
            hasher: Sha256::new(),
            written: 0,
            synced: false,
        })
    }

    /// Fills `bytes` with the little-endian bytes of the values from position `start` on. Whether they are
    /// those that were stored is not looked at: see [`Blobs::reader`].
    ///
    /// # Errors
    /// [`ServerStoreError`] for a missing or shorter blob.
    pub fn read(
        &self,
        digest: &Digest,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), ServerStoreError> {
        read_at(&self.path(digest), 4 * start, bytes)
    }

    /// Begins to read a blob as a whole.
    #[must_use]
    pub fn reader(&self, digest: &Digest) -> BlobReader {
        BlobReader {
            name: *digest,
            path: self.path(digest),
            position: 0,
            hasher: Sha256::new(),
        }
    }

    /// What is said of a blob whose content is not what its name says.
    #[must_use]
    pub fn corrupt(&self, digest: &Digest) -> ServerStoreError {
        let path = self.path(digest);
        ServerStoreError::Corrupt { path }
    }

    /// Removes every blob but those named.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub fn keep_only(&self, wanted: &BTreeSet<Digest>) -> Result<(), ServerStoreError> {
        let failed = |error| ServerStoreError::file(&self.folder, error);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name
                .parse::<Digest>()
                .is_ok_and(|digest| !wanted.contains(&digest))
            {
                fs::remove_file(&path).map_err(|error| ServerStoreError::file(&path, error))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }
}

/// The file is opened for each part: many blobs may be read at a time, and open files are few.
fn read_at(path: &Path, position: u64, bytes: &mut [u8]) -> Result<(), ServerStoreError> {
    File::open(path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(position))?;
            file.read_exact(bytes)
        })
        .map_err(|error| {
            let path = path.to_owned();
            match error.kind() {
                io::ErrorKind::UnexpectedEof => ServerStoreError::Corrupt { path },
                io::ErrorKind::NotFound => ServerStoreError::Missing { path },
                _ => ServerStoreError::file(&path, error),
            }
        })
}

impl BlobReader {
    /// Fills `bytes` with the next ones.
    ///
    /// # Errors
    /// [`ServerStoreError`] for a missing or shorter blob.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<(), ServerStoreError> {
        read_at(&self.path, self.position, bytes)?;
        self.position += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Says whether what was read, from the first byte to the last, is what the name says.
    ///
    /// # Errors
    /// [`ServerStoreError::Corrupt`].
    pub fn finish(self) -> Result<(), ServerStoreError> {
        let found: [u8; 32] = self.hasher.finalize().into();
        if self.name == found.into() {
            return Ok(());
        }
        Err(ServerStoreError::Corrupt { path: self.path })
    }
}

impl BlobWriter<'_> {
    /// Appends values, given as their little-endian bytes.
    ///
    /// # Errors
    /// [`ServerStoreError::DiskFull`] and others.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ServerStoreError> {
        self.written += bytes.len() as u64;
        self.synced = false;
        let written = match self.blobs.room {
            Some(room) if self.written > room => Err(io::ErrorKind::StorageFull.into()),
            _ => self.file.write_all(bytes),
        };
        written.map_err(|error| ServerStoreError::file(&self.path, error))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Digest of what was appended so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let bytes: [u8; 32] = self.hasher.clone().finalize().into();
        bytes.into()
    }

    /// Waits until the values are on the disk, so that [`BlobWriter::finish`] takes a moment only.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub fn sync(&mut self) -> Result<(), ServerStoreError> {
        if !self.synced {
            self.file
                .sync_all()
                .map_err(|error| ServerStoreError::file(&self.path, error))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Makes the blob durable under its digest.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then nothing is there.
    pub fn finish(mut self) -> Result<Digest, ServerStoreError> {
        self.sync()?;
        let digest = self.digest();
        let target = self.blobs.path(&digest);
        fs::rename(&self.path, &target)
            .and_then(|()| File::open(&self.blobs.folder)?.sync_all())
            .map_err(|error| ServerStoreError::file(&target, error))?;
        Ok(digest)
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // After `finish` the temporary name is gone and this does nothing.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use consilium_core::vector::values_to_bytes;

    use super::*;

    #[test]
    fn a_blob_is_named_by_its_content_and_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let mut writer = blobs.create().unwrap();
        let bytes = values_to_bytes(&[1.0, 2.0, 3.0]);
        writer.append(&bytes[..8]).unwrap();
        writer.append(&bytes[8..]).unwrap();
        let digest = writer.finish().unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        let mut two = [0; 8];
        blobs.read(&digest, 1, &mut two).unwrap();
        assert_eq!(two, bytes[4..]);
        let short = blobs.read(&digest, 2, &mut two).unwrap_err();
        assert_eq!(short.code(), "store_corrupt");
        blobs.keep_only(&BTreeSet::new()).unwrap();
        assert!(!blobs.contains(&digest));
    }

    #[test]
    fn a_blob_with_one_changed_bit_or_a_missing_end_is_not_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let mut writer = blobs.create().unwrap();
        let mut bytes = values_to_bytes(&[1.0, 2.0, 3.0]);
        writer.append(&bytes).unwrap();
        let digest = writer.finish().unwrap();
        let read = || {
            let mut reader = blobs.reader(&digest);
            reader.read(&mut [0; 4])?;
            reader.read(&mut [0; 8])?;
            reader.finish()
        };
        read().unwrap();
        bytes[5] ^= 1;
        fs::write(folder.path().join(digest.to_string()), &bytes).unwrap();
        assert_eq!(read().unwrap_err().code(), "store_corrupt");
        fs::write(folder.path().join(digest.to_string()), &bytes[..8]).unwrap();
        assert_eq!(read().unwrap_err().code(), "store_corrupt");
        fs::remove_file(folder.path().join(digest.to_string())).unwrap();
        assert_eq!(read().unwrap_err().code(), "store_missing");
    }

    #[test]
    fn a_full_disk_refuses_a_blob_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap().with_room_for(8);
        let mut writer = blobs.create().unwrap();
        writer.append(&[0; 8]).unwrap();
        let full = writer.append(&[0; 4]).unwrap_err();
        assert_eq!(full.code(), "store_disk_full");
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
