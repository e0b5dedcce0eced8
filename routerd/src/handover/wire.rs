//! The connection of a hand-over: one JSON object a line, and sockets that come along with a line.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{HandoverError, Message};

/// A word that is not said within this time is not waited for.
pub(crate) const STEP: Duration = Duration::from_secs(10);
/// The longest line: dynos by the hundred thousand.
const LINE_MAX: usize = 16 << 20;
/// The most sockets that the kernel takes along with one line.
const SOCKETS_MAX: usize = 253;

/// One end of it.
pub(crate) struct Wire {
    stream: UnixStream,
    read: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Wire {
    pub(crate) async fn connect(path: &Path) -> Result<Self, HandoverError> {
        let stream = UnixStream::connect(path).await;
        Self::over(stream.map_err(|error| HandoverError::Nobody(path.into(), error))?)
    }

    /// Both ends have to be the same user's, or root's.
    pub(crate) fn over(stream: UnixStream) -> Result<Self, HandoverError> {
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(HandoverError::Stranger(uid));
        }
        Ok(Self { stream, read: Vec::new(), sockets: VecDeque::new() })
    }

    /// The other process, if the system tells.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    pub(crate) async fn send(&mut self, message: &Message) -> Result<(), HandoverError> {
        self.send_with(message, &[]).await
    }

    /// Sends a word and sockets along with it.
    pub(crate) async fn send_with(
        &mut self,
        message: &Message,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), HandoverError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
        line.push(b'\n');
        let sending = async {
            let sent =
                self.stream.async_io(Interest::WRITABLE, || first(&self.stream, &line, sockets)).await?;
            self.stream.write_all(&line[sent..]).await
        };
        timeout(STEP, sending).await.map_err(|_| HandoverError::Late(STEP))??;
        Ok(())
    }

    /// The next word; `None`: the other side has closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> Result<Option<Message>, HandoverError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let told = serde_json::from_slice(&line);
                return told.map(Some).map_err(|error| HandoverError::Confused(error.to_string()));
            }
            if self.read.len() > LINE_MAX {
                return Err(HandoverError::Confused("a line without an end".to_owned()));
            }
            let (stream, read, sockets) = (&self.stream, &mut self.read, &mut self.sockets);
            match stream.async_io(Interest::READABLE, || more(stream, read, sockets)).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next word, within that time. That the other side ends, refuses or has failed is an error here.
    pub(crate) async fn expect(&mut self, within: Duration) -> Result<Message, HandoverError> {
        match timeout(within, self.receive()).await.map_err(|_| HandoverError::Late(within))?? {
            None => Err(HandoverError::Gone),
            Some(Message::Refused { why }) => Err(HandoverError::Refused(why)),
            Some(Message::Failed { why }) => Err(HandoverError::Failed(why)),
            Some(message) => Ok(message),
        }
    }

    /// The sockets that have come along.
    pub(crate) fn take_sockets(&mut self) -> Vec<OwnedFd> {
        self.sockets.drain(..).collect()
    }
}

/// Sends the beginning of a line, and the sockets with it.
fn first(stream: &UnixStream, line: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let message = SendAncillaryMessage::ScmRights(sockets);
    let mut space = vec![MaybeUninit::uninit(); message.size()];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !along.push(message) {
        return Err(io::Error::other("too many sockets"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(line)], &mut along, SendFlags::NOSIGNAL)?)
}

fn more(stream: &UnixStream, read: &mut Vec<u8>, sockets: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut piece = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut piece)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            sockets.extend(came);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("not every socket came along: too many files are open"));
    }
    read.extend_from_slice(&piece[..got.bytes]);
    Ok(got.bytes)
}
