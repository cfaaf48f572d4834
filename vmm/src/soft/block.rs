//! The cache of decoded code.
//!
//! A block is a run of instructions inside one page, found by the physical address of the first and by the mode
//! it was decoded in. The guest cannot tell whether a block was cached: a store to a line that a block was made
//! from removes it before the next block runs, and a block that stores into itself ends there
//! ([`super::pages`]). Memory is bounded: when the operations' store is full, everything is forgotten.

use super::decode::{Decoded, Forms, LENGTH_MAX, decode};
use super::op::{Kind, LAST, Op};
use super::pages::{NO_BLOCK, Pages, lines_of};
use super::simd::Form;
use super::state::Mode;

/// Instructions of one block, at most.
const OPS_MAX: usize = 32;
/// Bytes of one block, at most, so that an instruction's place in it fits a byte.
const BYTES_MAX: u64 = 240;
/// Operations kept, at most: 16 MiB of them.
const STORE_MAX: usize = 1 << 19;
/// Heads of the chains.
const BUCKETS: usize = 1 << 16;

/// A block's place in the cache.
#[derive(Debug, Clone, Copy)]
struct Block {
    at: u64,
    mode: Mode,
    first: u32,
    count: u32,
    lines: u64,
    next_in_bucket: u32,
    next_in_page: u32,
}

/// What is cached, and the counts of it.
pub(super) struct Blocks {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    buckets: Vec<u32>,
    forms: Forms,
    /// Pages that have blocks, some perhaps no more.
    pages: Vec<u32>,
    /// Blocks decoded so far.
    pub(super) decoded: u64,
}

fn bucket(at: u64) -> usize {
    (at ^ at >> 16) as usize % BUCKETS
}

impl Blocks {
    pub(super) fn new() -> Self {
        Blocks {
            ops: Vec::new(),
            blocks: Vec::new(),
            buckets: vec![NO_BLOCK; BUCKETS],
            forms: Forms::default(),
            pages: Vec::new(),
            decoded: 0,
        }
    }

    /// The operations of the block at a physical address, if it is cached.
    #[inline]
    pub(super) fn find(&self, at: u64, mode: Mode) -> Option<&[Op]> {
        let mut number = self.buckets[bucket(at)];
        while let Some(block) = self.blocks.get(number as usize) {
            if block.at == at && block.mode == mode {
                return self.ops.get(block.first as usize..(block.first + block.count) as usize);
            }
            number = block.next_in_bucket;
        }
        None
    }

    /// Decodes the block at a physical address in memory, which runs at `rip`. False: its first instruction does
    /// not end in this page.
    pub(super) fn make(
        &mut self,
        at: u64,
        rip: u64,
        mode: Mode,
        pages: &mut Pages,
        forms: &mut Vec<Form>,
    ) -> bool {
        let mut bytes = [0; BYTES_MAX as usize + LENGTH_MAX];
        let room = (0x1000 - (at & 0xfff)).min(bytes.len() as u64) as usize;
        let bytes = &mut bytes[..room];
        pages.ram.read(at, bytes);
        if self.ops.len() + OPS_MAX > STORE_MAX {
            self.forget(pages);
        }
        let first = self.ops.len();
        let mut offset = 0usize;
        while self.ops.len() - first < OPS_MAX && offset < BYTES_MAX as usize {
            let decoded = decode(&bytes[offset..], mode, rip, offset as u8, &mut self.forms, forms);
            let op = match decoded {
                Decoded::Op(op) => op,
                // Found again, and dealt with, when it is the first.
                Decoded::Short | Decoded::TooLong => break,
            };
            // The count must be exact when it is read.
            if op.kind == Kind::Rdtsc && self.ops.len() > first {
                break;
            }
            offset += usize::from(op.length);
            self.ops.push(op);
            if op.flags & LAST != 0 {
                break;
            }
        }
        if self.ops.len() == first {
            return false;
        }
        self.decoded += 1;
        self.link(at, mode, first, offset as u64, pages);
        true
    }

    fn link(&mut self, at: u64, mode: Mode, first: usize, bytes: u64, pages: &mut Pages) {
        let page = (at >> 12) as u32;
        // An undefined instruction's bytes are fewer than what was looked at to find that out.
        let lines = lines_of(at, (bytes + LENGTH_MAX as u64).min(0x1000 - (at & 0xfff)));
        let (head, number) = (pages.blocks(page), self.blocks.len() as u32);
        let place = bucket(at);
        self.blocks.push(Block {
            at,
            mode,
            first: first as u32,
            count: (self.ops.len() - first) as u32,
            lines,
            next_in_bucket: self.buckets[place],
            next_in_page: head,
        });
        self.buckets[place] = number;
        if head == NO_BLOCK {
            self.pages.push(page);
        }
        pages.set_code(page, number, pages.code(page) | lines);
    }

    /// Removes the blocks that were made from what was stored to since the last call.
    pub(super) fn follow_stores(&mut self, pages: &mut Pages) {
        while let Some((page, lines)) = pages.stale.pop() {
            let (mut kept, mut code) = (NO_BLOCK, 0);
            let mut number = pages.blocks(page);
            while let Some(block) = self.blocks.get(number as usize).copied() {
                if block.lines & lines != 0 {
                    self.unlink(number, block.at);
                } else {
                    self.blocks[number as usize].next_in_page = kept;
                    kept = number;
                    code |= block.lines;
                }
                number = block.next_in_page;
            }
            pages.set_code(page, kept, code);
        }
    }

    /// Takes a block out of its bucket.
    fn unlink(&mut self, number: u32, at: u64) {
        let place = bucket(at);
        let next = self.blocks[number as usize].next_in_bucket;
        let mut before = self.buckets[place];
        if before == number {
            self.buckets[place] = next;
            return;
        }
        while let Some(block) = self.blocks.get_mut(before as usize) {
            if block.next_in_bucket == number {
                block.next_in_bucket = next;
                return;
            }
            before = block.next_in_bucket;
        }
    }

    /// Forgets all blocks.
    pub(super) fn forget(&mut self, pages: &mut Pages) {
        for page in self.pages.drain(..) {
            pages.set_code(page, NO_BLOCK, 0);
        }
        self.ops.clear();
        self.blocks.clear();
        self.buckets.fill(NO_BLOCK);
    }
}
