//! Where in a file the next bytes go, and which are free again: a ring, so that a file is no longer than its bound
//! however long the answer is that passes through it.

/// The bytes of a file that are taken: from `head` to `tail`, or from `head` on and from the start to `tail`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    most: u64,
    taken: u64,
    head: u64,
    tail: u64,
}

impl Ring {
    pub(crate) fn new(most: u64) -> Self {
        Self { most, taken: 0, head: 0, tail: 0 }
    }

    /// Nothing is taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Where the next bytes go, and how many there is room for in one piece.
    pub(crate) fn room(&self) -> (u64, u64) {
        if self.is_empty() {
            (0, self.most)
        } else if self.head < self.tail && self.tail < self.most {
            (self.tail, self.most - self.tail)
        } else if self.head < self.tail {
            (0, self.head)
        } else {
            (self.tail, self.head - self.tail)
        }
    }

    /// Takes bytes there, no more than [`room`](Self::room) says.
    pub(crate) fn take(&mut self, (at, length): (u64, u64)) {
        if self.is_empty() {
            self.head = at;
        }
        self.tail = at + length;
        self.taken += length;
    }

    /// From now on it is no longer than that; nothing behind it is taken.
    pub(crate) fn shorten(&mut self, most: u64) {
        self.most = self.most.min(most);
    }

    /// Gives back what was taken last.
    pub(crate) fn untake(&mut self, (at, length): (u64, u64)) {
        self.tail = at;
        self.taken -= length;
    }

    /// Gives back what was taken first.
    pub(crate) fn release(&mut self, (at, length): (u64, u64)) {
        self.head = at + length;
        self.taken -= length;
    }
}
