//! What orchestrator and agent say to each other: frames of two lengths (u32, little endian), a head in JSON, and bytes.
//! One answer per question, in any order, told apart by number.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most bytes of a head.
const HEAD: usize = 64 * 1024;
/// Most bytes after it.
pub const PAYLOAD: usize = 16 << 20;
/// Most bytes of a file in one frame.
pub const PIECE: usize = 1 << 20;

/// A question to the agent, with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Chosen by who asks.
    pub id: u64,
    /// The question.
    pub what: Ask,
}

/// What the agent can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Say that you are there.
    Hello,
    /// Run a command to its end, at most for `limit_ms`; the bytes are its standard input.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// After so many milliseconds it is killed.
        limit_ms: u64,
    },
    /// Start a command and leave it running.
    Start {
        /// Program and arguments.
        argv: Vec<String>,
        /// What it prints is appended to this file.
        log: String,
    },
    /// Wait for a command that was started, at most for `limit_ms`.
    Wait {
        /// Its process id.
        pid: u32,
        /// After so many milliseconds the answer is that it runs.
        limit_ms: u64,
    },
    /// Write the bytes to a file.
    Put {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
        /// Behind what it holds, or in the place of it.
        append: bool,
    },
    /// Read at most [`PIECE`] bytes of a file.
    Get {
        /// The file.
        path: String,
        /// Where to begin.
        offset: u64,
    },
}

/// An answer, with the question's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The question's.
    pub id: u64,
    /// The answer.
    pub what: Answer,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is there, or it is done. For [`Ask::Get`]: the bytes; none at the end of the file.
    Done,
    /// The command has ended; the bytes are its standard output and then its standard error.
    Ran {
        /// How.
        end: End,
        /// Bytes of standard output.
        out: u32,
    },
    /// The command runs.
    Started {
        /// Its process id, inside.
        pid: u32,
    },
    /// A command that was started has ended.
    Ended {
        /// How.
        end: End,
    },
    /// It runs still.
    Running,
    /// It did not happen.
    Failed {
        /// Why.
        message: String,
    },
}

/// Writes a frame.
///
/// # Errors
/// It is too large, or the connection broke.
pub fn write(to: &mut impl Write, head: &impl Serialize, payload: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    if head.len() > HEAD || payload.len() > PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too much for one message to or from an agent",
        ));
    }
    let mut frame = Vec::with_capacity(8 + head.len() + payload.len());
    for length in [head.len(), payload.len()] {
        frame.extend(u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
    }
    frame.extend(head);
    frame.extend(payload);
    to.write_all(&frame)
}

/// Reads a frame.
///
/// # Errors
/// The connection ended, or what came is no frame: it is of no use any more.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut lengths = [0; 8];
    from.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let (head, payload) =
        (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if head > HEAD || payload > PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message to or from an agent"));
    }
    let mut bytes = vec![0; head + payload];
    from.read_exact(&mut bytes)?;
    let payload = bytes.split_off(head);
    Ok((serde_json::from_slice(&bytes)?, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_one_after_the_other() {
        let asked = [
            Asked { id: 1, what: Ask::Run { argv: vec!["sh".into(), "-c".into()], limit_ms: 5 } },
            Asked { id: 2, what: Ask::Put { path: "/a".into(), mode: 0o600, append: false } },
        ];
        let mut bytes = Vec::new();
        write(&mut bytes, &asked[0], b"").unwrap();
        write(&mut bytes, &asked[1], &[7; 3000]).unwrap();
        let mut from = &bytes[..];
        assert_eq!(read::<Asked>(&mut from).unwrap(), (asked[0].clone(), Vec::new()));
        assert_eq!(read::<Asked>(&mut from).unwrap(), (asked[1].clone(), vec![7; 3000]));
        assert_eq!(read::<Asked>(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_room_is_made_for_it() {
        let huge = [0xff; 8];
        assert_eq!(read::<Asked>(&mut &huge[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let nonsense = [2, 0, 0, 0, 0, 0, 0, 0, b'{', b'['];
        assert!(read::<Asked>(&mut &nonsense[..]).is_err());
        assert!(write(&mut Vec::new(), &(), &vec![0; PAYLOAD + 1]).is_err());
    }
}
