//! Where a frame of a WebSocket ends (RFC 6455 section 5.2), and the frame that closes one.
//!
//! Nothing is unmasked, kept or judged: all that is asked is where a frame of ours may stand between two others, and
//! whether a side has said its last word.

/// Going away (RFC 6455 section 7.4.1): what both sides are told when one of them is about to leave.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
/// A close frame, all of it.
const CLOSE: u8 = 0x88;
/// What marks a frame as masked.
const MASKED: u8 = 0x80;

/// The close frame for a client: a server does not mask.
pub(crate) fn close_for_client() -> Vec<u8> {
    vec![CLOSE, 2, GOING_AWAY[0], GOING_AWAY[1]]
}

/// The close frame for a dyno, masked as all that a client sends.
pub(crate) fn close_for_dyno() -> Vec<u8> {
    let mask = fastrand::u32(..).to_be_bytes();
    let mut frame = vec![CLOSE, MASKED | 2];
    frame.extend_from_slice(&mask);
    frame.extend(GOING_AWAY.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    frame
}

/// How far one direction of a WebSocket has come.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The head of the present frame, as far as it has come.
    head: [u8; 14],
    have: usize,
    /// Bytes of its payload that are still to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Nothing of a frame has come.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0
    }

    /// A close frame has come, whole.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads on.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.next_end(bytes) {
            bytes = &bytes[end..];
        }
    }

    /// Reads on to the end of the present frame, or of the next if there is none. Says where in `bytes` that is;
    /// `None`: behind them.
    pub(crate) fn next_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while self.have < self.head_len() {
            self.head[self.have] = *bytes.get(at)?;
            (self.have, at) = (self.have + 1, at + 1);
            if self.have == self.head_len() {
                self.left = self.payload();
            }
        }
        let part = self.left.min((bytes.len() - at) as u64);
        self.left -= part;
        if self.left > 0 {
            return None;
        }
        self.have = 0;
        self.closed |= self.head[0] & 0x0F == CLOSE & 0x0F;
        Some(at + part as usize)
    }

    /// Length of the present frame's head, as far as is known.
    fn head_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + mask
    }

    /// Length of the payload, by a head that is whole.
    fn payload(&self) -> u64 {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.head[1] & !MASKED {
            126 => long(&self.head[2..4]),
            127 => long(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([7; 4].iter().filter(|_| masked));
        frame.resize(frame.len() + length, b'x');
        frame
    }

    #[test]
    fn the_end_of_each_frame_is_found_however_the_bytes_are_cut() {
        for masked in [false, true] {
            let lengths = [0, 1, 125, 126, 127, 300, 65535, 65536, 0, 70000];
            let frames: Vec<_> = lengths.iter().map(|length| frame(2, masked, *length)).collect();
            let all = frames.concat();
            let mut ends: Vec<_> = frames
                .iter()
                .scan(0, |sum, frame| {
                    *sum += frame.len();
                    Some(*sum)
                })
                .collect();
            ends.insert(0, 0);
            for part in [1, 2, 3, 5, 1000, 100_000] {
                let (mut seen, mut at) = (Frames::default(), 0);
                for piece in all.chunks(part) {
                    seen.read(piece);
                    at += piece.len();
                    assert_eq!(seen.is_between(), ends.contains(&at), "{masked} {part} {at}");
                }
                assert!(!seen.is_closed());
            }
            let mut seen = Frames::default();
            assert_eq!(seen.next_end(&all), Some(ends[1]));
            assert_eq!(seen.next_end(&all[ends[1]..]), Some(ends[2] - ends[1]));
        }
    }

    #[test]
    fn a_close_frame_is_known_and_ours_are_whole() {
        for close in [close_for_client(), close_for_dyno()] {
            let mut seen = Frames::default();
            seen.read(&close[..close.len() - 1]);
            assert!(!seen.is_closed() && !seen.is_between());
            seen.read(&close[close.len() - 1..]);
            assert!(seen.is_closed() && seen.is_between());
        }
        let close = close_for_dyno();
        let code = [close[6] ^ close[2], close[7] ^ close[3]];
        assert_eq!(u16::from_be_bytes(code), 1001);
    }

    #[test]
    fn a_length_that_nobody_can_send_is_waited_for() {
        let mut seen = Frames::default();
        seen.read(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255]);
        seen.read(&[0; 4096]);
        assert!(!seen.is_between());
    }
}
