//! Large pages for a thread's heap.
//!
//! What belongs to one subscriber lies on some nine pages. Between two frames the processor forgets where most of them are, and in a
//! virtual machine it takes up to twenty-four reads to find out again, each of which may miss every cache; asking for memory ahead
//! ([`crate::prefetch`]) is dropped meanwhile. A page of 2 MiB instead of 4 KiB is found by all subscribers on it.
//!
//! The kernel makes them out of small ones in the background. Only memory that the allocator gave back, whole large pages of it, and takes
//! again is filled by large pages at once, for which the kernel may move other memory first, unless
//! `/sys/kernel/mm/transparent_hugepage/defrag` is `defer` or `never`.

use std::{fs, io, ops::Range};

use rustix::{io::Errno, mm::Advice};

/// The parts of a thread's heap for which large pages were asked.
#[derive(Debug, Default)]
pub(crate) struct LargePages {
    asked: Vec<Range<usize>>,
    /// How often the process's mappings were looked at in vain.
    vain: usize,
    refused: bool,
}

impl LargePages {
    /// Bytes of a large page of x86-64, and of ARM with pages of 4 KiB.
    pub(crate) const SIZE: usize = 2 * 1_024 * 1_024;

    /// Parts that are remembered: with the system's allocator each is 64 MiB, one for some 2,000 peers. And looks in vain at most.
    const MAX: usize = 256;

    /// Asks for large pages around this address of the heap. Reads /proc for a part that is new, so not for each packet; what the
    /// kernel lacks is said once.
    pub(crate) fn cover(&mut self, address: usize) {
        if let Some(place) = self.asked.iter().position(|part| part.contains(&address)) {
            // The allocator may have given it back and taken it again, and that knows nothing of the advice.
            if advise(&self.asked[place]).is_ok() {
                return;
            }
            self.asked.swap_remove(place);
        }
        if self.refused || self.vain >= Self::MAX {
            return;
        }
        match ask(address) {
            Ok(Some(part)) => {
                if self.asked.len() == Self::MAX {
                    self.asked.remove(0);
                }
                self.asked.push(part);
            }
            // Of a file, or nothing can be read now.
            Ok(None) => self.vain += 1,
            Err(error) => {
                self.refused = true;
                tracing::warn!(%error, "no large pages for the heap of a media thread: packets to many subscribers cost more");
            }
        }
    }

    /// Whether the kernel took it.
    pub(crate) fn granted(&self) -> bool {
        !self.asked.is_empty()
    }
}

/// An error: the kernel gives none at all.
fn ask(address: usize) -> io::Result<Option<Range<usize>>> {
    match fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled") {
        Ok(enabled) if enabled.contains("[never]") => {
            return Err(io::Error::other("/sys/kernel/mm/transparent_hugepage/enabled is never"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(part) = part_around(&maps, address) else { return Ok(None) };
    match advise(&part) {
        // Neighbours of the heap are listed as one with it, and some of them may have gone since.
        Ok(()) | Err(Errno::NOMEM) => Ok(Some(part)),
        Err(Errno::INVAL) => Err(Errno::INVAL.into()),
        Err(_) => Ok(None),
    }
}

/// The memory around an address, with what is kept free behind it to grow into, by the list of /proc/self/maps: lines look like
/// `start-end perms offset device inode name`, addresses in hexadecimal. `None` where it belongs to a file.
fn part_around(maps: &str, address: usize) -> Option<Range<usize>> {
    let mut mappings = maps.lines().filter_map(Mapping::parse);
    let found = mappings.find(|mapping| mapping.range.contains(&address))?;
    if !found.is_memory || !found.perms.starts_with("rw") {
        return None;
    }
    let free = mappings.next().filter(|next| {
        next.range.start == found.range.end && next.is_memory && next.perms.starts_with("---")
    });
    Some(found.range.start..free.map_or(found.range.end, |next| next.range.end))
}

struct Mapping<'a> {
    range: Range<usize>,
    perms: &'a str,
    /// Not of a file.
    is_memory: bool,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        let perms = fields.next()?;
        let is_memory = fields.nth(2)? == "0";
        Some(Self { range, perms, is_memory })
    }
}

#[allow(unsafe_code)] // there is no safe way to give advice on memory that is the allocator's
fn advise(part: &Range<usize>) -> Result<(), Errno> {
    let start = std::ptr::without_provenance_mut(part.start);
    // SAFETY: the advice changes neither what memory holds nor who may touch it, and memory that is gone by now is an error.
    unsafe { rustix::mm::madvise(start, part.len(), Advice::LinuxHugepage) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d6a9c00000-55d6a9c21000 rw-p 00000000 00:00 0                          [heap]
7f2300000000-7f2300021000 rw-p 00000000 00:00 0 
7f2300021000-7f2304000000 ---p 00000000 00:00 0 
7f2304000000-7f2304100000 rw-p 00000000 00:00 0 
7f2304200000-7f2304300000 ---p 00000000 00:00 0 
7f2304300000-7f2304400000 rw-p 00001000 fe:00 9978151                    /usr/bin/chappe-sfu
7f2304400000-7f2304500000 r--p 00000000 00:00 0 
garbage
";

    #[test]
    fn a_part_of_the_heap_is_told_with_what_it_grows_into() {
        let cases = [
            (
                "the heap of the first thread",
                0x55d6_a9c0_1000,
                Some(0x55d6_a9c0_0000..0x55d6_a9c2_1000),
            ),
            (
                "a heap with room to grow",
                0x7f23_0000_0000,
                Some(0x7f23_0000_0000..0x7f23_0400_0000),
            ),
            (
                "what is free lies elsewhere",
                0x7f23_0400_0000,
                Some(0x7f23_0400_0000..0x7f23_0410_0000),
            ),
            ("a file's", 0x7f23_0430_0000, None),
            ("not to be written", 0x7f23_0440_0000, None),
            ("nothing there", 0x7f23_0410_0000, None),
        ];
        for (name, address, expected) in cases {
            assert_eq!(part_around(MAPS, address), expected, "{name}");
        }
    }

    /// Whether the kernel was asked for large pages at this address: flag `hg` of /proc/self/smaps.
    fn is_asked(address: usize) -> bool {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut here = false;
        for line in smaps.lines() {
            if let Some(mapping) = Mapping::parse(line) {
                here = mapping.range.contains(&address);
            } else if here && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_ascii_whitespace().any(|flag| flag == "hg");
            }
        }
        false
    }

    #[test]
    fn the_heap_of_a_thread_is_asked_for_as_it_grows() {
        let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        let available = enabled.is_ok_and(|enabled| !enabled.contains("[never]"));
        std::thread::spawn(move || {
            let mut pages = LargePages::default();
            let block = || Vec::<u8>::with_capacity(100 * 1_024);
            let first = block();
            pages.cover(first.as_ptr().addr());
            assert_eq!(pages.granted(), available);
            // What the heap grows to later is asked for as well.
            let blocks: Vec<Vec<u8>> = (0..40).map(|_| block()).collect();
            for block in blocks.iter().chain([&first]) {
                pages.cover(block.as_ptr().addr());
                assert_eq!(is_asked(block.as_ptr().addr()), available);
            }
            assert!(pages.asked.len() < 10, "once for each part: {:x?}", pages.asked);
        })
        .join()
        .unwrap();
    }
}
