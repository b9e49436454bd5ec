//! Content-addressed files of little-endian f32 values: models and updates.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use consilium_core::Digest;
use consilium_core::vector::{bytes_to_values, values_to_bytes};
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
}

impl Blobs {
    /// Opens `folder`, and removes what an earlier process did not finish.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub fn open(folder: &Path) -> Result<Self, ServerStoreError> {
        let blobs = Self {
            folder: folder.to_owned(),
            room: None,
            next_temporary: AtomicU64::new(0),
        };
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
        })
    }

    /// Reads `count` values from position `start` on.
    ///
    /// # Errors
    /// [`ServerStoreError`] for a missing or shorter blob.
    pub fn read(
        &self,
        digest: &Digest,
        start: u64,
        count: usize,
    ) -> Result<Vec<f32>, ServerStoreError> {
        let path = self.path(digest);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ServerStoreError::Corrupt { path: path.clone() },
            _ => ServerStoreError::file(&path, error),
        };
        let mut file = File::open(&path).map_err(failed)?;
        file.seek(SeekFrom::Start(4 * start)).map_err(failed)?;
        let mut bytes = vec![0; 4 * count];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes_to_values(&bytes).collect())
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

impl BlobWriter<'_> {
    /// Appends values.
    ///
    /// # Errors
    /// [`ServerStoreError::DiskFull`] and others.
    pub fn append(&mut self, values: &[f32]) -> Result<(), ServerStoreError> {
        let bytes = values_to_bytes(values);
        self.written += bytes.len() as u64;
        let written = match self.blobs.room {
            Some(room) if self.written > room => Err(io::ErrorKind::StorageFull.into()),
            _ => self.file.write_all(&bytes),
        };
        written.map_err(|error| ServerStoreError::file(&self.path, error))?;
        self.hasher.update(&bytes);
        Ok(())
    }

    /// Digest of what was appended so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let bytes: [u8; 32] = self.hasher.clone().finalize().into();
        bytes.into()
    }

    /// Makes the blob durable under its digest.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then nothing is there.
    pub fn finish(self) -> Result<Digest, ServerStoreError> {
        let digest = self.digest();
        let target = self.blobs.path(&digest);
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &target))
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
    use super::*;

    #[test]
    fn a_blob_is_named_by_its_content_and_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let mut writer = blobs.create().unwrap();
        writer.append(&[1.0, 2.0]).unwrap();
        writer.append(&[3.0]).unwrap();
        let digest = writer.finish().unwrap();
        assert_eq!(digest, Digest::of(&values_to_bytes(&[1.0, 2.0, 3.0])));
        assert_eq!(blobs.read(&digest, 1, 2).unwrap(), [2.0, 3.0]);
        assert_eq!(
            blobs.read(&digest, 2, 2).unwrap_err().code(),
            "store_corrupt"
        );
        blobs.keep_only(&BTreeSet::new()).unwrap();
        assert!(!blobs.contains(&digest));
    }

    #[test]
    fn a_full_disk_refuses_a_blob_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap().with_room_for(8);
        let mut writer = blobs.create().unwrap();
        writer.append(&[1.0, 2.0]).unwrap();
        assert_eq!(writer.append(&[3.0]).unwrap_err().code(), "store_disk_full");
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
