//! Files that hold what belongs to this site: readable by their owner only, written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use consilium_ops::OperatorError;

/// Contents that are on the disk, but not yet under their name. Dropped, they are gone.
pub(crate) struct Pending {
    partial: PathBuf,
    path: PathBuf,
}

impl Pending {
    /// Writes `contents` beside `path`, and the folder above it where it is missing.
    ///
    /// # Errors
    /// [`OperatorError`] with the file and the operating system's words.
    pub(crate) fn write(path: &Path, contents: &[u8]) -> Result<Self, OperatorError> {
        let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let pending = Self {
            partial: path.with_file_name(name),
            path: path.to_owned(),
        };
        let write = || {
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                fs::create_dir_all(parent)?;
            }
            let mut file = create(&pending.partial)?;
            file.write_all(contents)?;
            file.sync_all()
        };
        write().map_err(|error| OperatorError::file(path, &error))?;
        Ok(pending)
    }

    /// Gives the contents their name, in place of a file that had it.
    ///
    /// # Errors
    /// As [`Pending::write`].
    pub(crate) fn place(self) -> Result<(), OperatorError> {
        fs::rename(&self.partial, &self.path)
            .map_err(|error| OperatorError::file(&self.path, &error))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Not there any more once it has its name.
        let _ = fs::remove_file(&self.partial);
    }
}

/// A new file of mode 0600 from the first byte on.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
