//! A log file that grows, line by line.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::task::AbortOnDropHandle;

use crate::process::Splitter;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Hands over each line that is written to a file from now on, until this is dropped.
pub(super) fn tail(path: PathBuf, mut take: impl FnMut(String) + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let (mut read, mut splitter) = (0, Splitter::default());
        loop {
            if let Ok(mut file) = tokio::fs::File::open(&path).await
                && file.seek(SeekFrom::Start(read)).await.is_ok()
            {
                let mut chunk = vec![0; 16 << 10];
                while let Ok(length @ 1..) = file.read(&mut chunk).await {
                    read += length as u64;
                    splitter.feed(&chunk[..length], &mut take);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }))
}
