//! Writes that follow each other share a system call, up to the next flush.
//!
//! HTTP/2 writes a frame of 256 bytes and more apart from the others, because it may hand its bytes to the system as they
//! lie, without a copy. Over a connection that takes one slice at a time it gathers all frames under 1 KiB instead: many
//! calls with small messages then cost one write. A larger frame comes in two slices, its head and its bytes, which go
//! out together here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back at most: as many as HTTP/2 gathers.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// A connection whose small writes wait for the next write or flush. Whoever writes has to flush.
#[derive(Debug)]
pub(crate) struct Gathered<T> {
    inner: T,
    held: Vec<u8>,
    /// How much of it is written.
    written: usize,
}

impl<T> Gathered<T> {
    pub fn new(inner: T) -> Self {
        Gathered { inner, held: Vec::new(), written: 0 }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Writes what is held, and some of `data` with it where there is room. Returns how much of `data` was written once
    /// nothing is held any more.
    fn poll_write_held(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        while self.written < self.held.len() {
            let held = &self.held[self.written..];
            let slices = [IoSlice::new(held), IoSlice::new(data)];
            let inner = Pin::new(&mut self.inner);
            let count = ready!(inner.poll_write_vectored(cx, &slices))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_data = count.saturating_sub(held.len());
            self.written += count - of_data;
            if of_data > 0 {
                self.held.clear();
                self.written = 0;
                return Poll::Ready(Ok(of_data));
            }
        }
        self.held.clear();
        self.written = 0;
        Poll::Ready(Ok(0))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.held.is_empty() && data.len() <= HELD_BYTES_MAX {
            this.held.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        match ready!(this.poll_write_held(cx, data))? {
            0 => Pin::new(&mut this.inner).poll_write(cx, data),
            count => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_held(cx, &[]))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_held(cx, &[]))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes so many bytes of a write at most, and keeps each write apart.
    struct Taking(usize, Vec<Vec<u8>>);

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = &data[..data.len().min(self.0)];
            self.1.push(taken.to_vec());
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let data = slices.iter().flat_map(|slice| slice.iter().copied());
            let data: Vec<u8> = data.take(self.0).collect();
            self.poll_write(cx, &data)
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn written(taking: usize, writes: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut connection = Gathered::new(Taking(taking, Vec::new()));
        for data in writes {
            connection.write_all(data).await.unwrap();
        }
        connection.flush().await.unwrap();
        assert!(connection.held.is_empty());
        connection.inner.1
    }

    #[tokio::test]
    async fn a_small_write_goes_out_with_the_next_or_when_it_is_flushed() {
        let (small, large) = (&[1; 9][..], &[2; 2 * HELD_BYTES_MAX][..]);
        assert_eq!(written(usize::MAX, &[small]).await, [small]);
        assert_eq!(written(usize::MAX, &[small, large]).await, [[small, large].concat()]);
        assert_eq!(written(usize::MAX, &[large, small]).await, [large, small]);
        assert_eq!(written(usize::MAX, &[]).await, Vec::<Vec<u8>>::new());
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_however_little_is_taken_at_once() {
        let lengths = [9, 1, HELD_BYTES_MAX, HELD_BYTES_MAX + 1, 300, 0, 70_000, 5];
        let writes: Vec<Vec<u8>> =
            lengths.into_iter().zip(1..).map(|(length, byte)| vec![byte; length]).collect();
        let writes: Vec<&[u8]> = writes.iter().map(Vec::as_slice).collect();
        for taking in [1, 8, 9, 10, 4_096, usize::MAX] {
            assert_eq!(written(taking, &writes).await.concat(), writes.concat(), "{taking}");
        }
    }

    #[tokio::test]
    async fn what_is_held_is_written_before_the_end() {
        let mut connection = Gathered::new(Taking(usize::MAX, Vec::new()));
        connection.write_all(b"last words").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(connection.inner.1, [b"last words"]);
    }
}
