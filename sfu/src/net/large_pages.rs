//! Large pages for a thread's heap.
//!
//! What belongs to one subscriber lies on some nine pages. Between two frames the processor forgets where most of them are, and in a
//! virtual machine it takes up to twenty-four reads to find out again, each of which may miss every cache; asking for memory ahead
//! ([`crate::prefetch`]) is dropped meanwhile. A page of 2 MiB instead of 4 KiB is found by all subscribers on it.
//!
//! By itself the kernel makes them out of small ones in the background, eight in ten seconds, a minute and more behind a shard of some
//! thousand peers. Those of a heap that grows are made at once, before most of them is touched, where the kernel knows how (Linux 6.1):
//! by a thread apart ([`PageMaker`]), for it takes a tenth of a millisecond, and up to seven in a virtual machine whose host has to find
//! the memory first. Who touches the page meanwhile waits for it, as when the kernel makes it by itself.

use std::{fs, io, ops::Range, sync::mpsc, thread};

use nix::libc;

/// The parts of a thread's heap for which large pages were asked.
#[derive(Debug, Default)]
pub(crate) struct LargePages {
    asked: Vec<Part>,
    /// How often the process's mappings were looked at in vain.
    vain: usize,
    refused: bool,
    maker: PageMaker,
}

/// Makes large pages for whoever has one of these, on a thread that ends with the last of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageMaker {
    /// Where they begin. None: the kernel has to come by itself.
    orders: Option<mpsc::SyncSender<usize>>,
}

/// Large pages that wait to be made, at most: those of some 5,000 peers.
const ORDERS: usize = 64;

/// So many that could not be made, before any was, say that the kernel knows no such thing. One may be in the way of something else.
const VAIN_ORDERS: u32 = 8;

impl PageMaker {
    /// Starts the thread. Without it, or on a kernel that makes none when asked, they are made later.
    pub(crate) fn start() -> Self {
        let (orders, received) = mpsc::sync_channel(ORDERS);
        let make = move || {
            let (mut made, mut vain) = (0, 0);
            for start in received {
                match advise(&(start..start + LargePages::SIZE), Advice::Collapse) {
                    Ok(()) => made += 1,
                    Err(_) => vain += 1,
                }
                if made == 0 && vain == VAIN_ORDERS {
                    tracing::debug!("the kernel makes large pages in the background only");
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("large-pages".to_owned()).spawn(make);
        Self { orders: thread.is_ok().then_some(orders) }
    }
}

#[derive(Debug)]
struct Part {
    range: Range<usize>,
    /// Large pages were ordered up to here, once. Those that could not be made come later, when the kernel passes by.
    ordered: usize,
    /// What lies before it is all there.
    there: usize,
}

impl LargePages {
    /// Bytes of a large page of x86-64, and of ARM with pages of 4 KiB.
    pub(crate) const SIZE: usize = 2 * 1_024 * 1_024;

    /// Parts that are remembered: with the system's allocator each is 64 MiB, one for some 2,000 peers. And looks in vain at most.
    const MAX: usize = 256;

    /// None are asked for yet.
    pub(crate) fn new(maker: PageMaker) -> Self {
        Self { maker, ..Self::default() }
    }

    /// Asks for large pages around this address of the heap. Reads /proc for a part that is new, so not for each packet; what the
    /// kernel lacks is said once.
    pub(crate) fn cover(&mut self, address: usize) {
        if let Some(place) = self.place(address) {
            // The allocator may have given it back and taken it again, and that knows nothing of the advice.
            if advise(&self.asked[place].range, Advice::Large).is_ok() {
                return;
            }
            self.asked.swap_remove(place);
        }
        if self.refused || self.vain >= Self::MAX {
            return;
        }
        match ask(address) {
            Ok(Some(range)) => {
                if self.asked.len() == Self::MAX {
                    self.asked.remove(0);
                }
                // The heap grows into another part once it has filled those before, but for what the next block did not fit into.
                for part in &mut self.asked {
                    part.there = part.range.end / Self::SIZE * Self::SIZE;
                }
                let start = range.start.next_multiple_of(Self::SIZE);
                self.asked.push(Part { range, ordered: start, there: start });
            }
            // Of a file, or nothing can be read now.
            Ok(None) => self.vain += 1,
            Err(error) => {
                self.refused = true;
                tracing::warn!(%error, "no large pages for the heap of a media thread: packets to many subscribers cost more");
            }
        }
    }

    /// Whether what is known to be there of the heap ends before this address of it.
    pub(crate) fn ends_before(&self, address: usize) -> bool {
        self.place(address).is_some_and(|place| self.asked[place].there <= address)
    }

    /// The part of the heap that `within` lies in is all there up to `end`: has the large pages made that were not.
    pub(crate) fn extend(&mut self, within: usize, end: usize) {
        let Some(place) = self.place(within) else { return };
        let part = &mut self.asked[place];
        part.there = part.there.max(end / Self::SIZE * Self::SIZE);
        let Some(orders) = &self.maker.orders else { return };
        for part in &mut self.asked {
            while part.ordered < part.there {
                match orders.try_send(part.ordered) {
                    Ok(()) => part.ordered += Self::SIZE,
                    // Those have their turn when it grows again.
                    Err(mpsc::TrySendError::Full(_)) => return,
                    Err(mpsc::TrySendError::Disconnected(_)) => {
                        self.maker.orders = None;
                        return;
                    }
                }
            }
        }
    }

    fn place(&self, address: usize) -> Option<usize> {
        self.asked.iter().position(|part| part.range.contains(&address))
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
    let Err(error) = advise(&part, Advice::Large) else { return Ok(Some(part)) };
    match error.raw_os_error() {
        // Neighbours of the heap are listed as one with it, and some of them may have gone since.
        Some(libc::ENOMEM) => Ok(Some(part)),
        Some(libc::EINVAL) => Err(error),
        _ => Ok(None),
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

/// Of memory; see madvise(2).
#[derive(Clone, Copy)]
enum Advice {
    /// Large pages are wanted here.
    Large,
    /// One is to be made now.
    Collapse,
}

/// Linux 6.1; not every C library has a name for it.
const MADV_COLLAPSE: libc::c_int = 25;

#[allow(unsafe_code)] // there is no safe way to give advice on memory that is the allocator's
fn advise(part: &Range<usize>, advice: Advice) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(part.start);
    let advice = match advice {
        Advice::Large => libc::MADV_HUGEPAGE,
        Advice::Collapse => MADV_COLLAPSE,
    };
    // SAFETY: neither changes what memory holds nor who may touch it, whoever has it by now; where there is none it is an error.
    let result = unsafe { libc::madvise(start, part.len(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    fn large_pages_are_ordered_once_and_none_is_left_out() {
        const SIZE: usize = LargePages::SIZE;
        let (orders, received) = mpsc::sync_channel(2);
        let part = |range| Part { range, ordered: 0, there: 0 };
        let mut pages = LargePages::new(PageMaker { orders: Some(orders) });
        pages.asked.push(part(0..32 * SIZE));
        let ordered = || received.try_iter().map(|start| start / SIZE).collect::<Vec<_>>();
        assert!(pages.ends_before(0) && !pages.ends_before(32 * SIZE), "not of the heap");
        pages.extend(1, SIZE + 5);
        assert_eq!(
            (ordered(), pages.ends_before(SIZE - 1), pages.ends_before(SIZE)),
            (vec![0], false, true)
        );
        pages.extend(SIZE, 4 * SIZE);
        assert_eq!(ordered(), [1, 2], "as many as may wait");
        pages.extend(0, SIZE);
        assert_eq!(
            (ordered(), pages.ends_before(4 * SIZE - 1)),
            (vec![3], false),
            "it does not shrink"
        );
        pages.extend(40 * SIZE, 41 * SIZE);
        assert_eq!(ordered(), [0; 0], "not of the heap");
        drop(received);
        pages.extend(0, 8 * SIZE);
        assert!(pages.maker.orders.is_none(), "there is nobody to make them");
    }

    #[test]
    fn a_page_maker_whose_kernel_makes_none_gives_up() {
        let orders = PageMaker::start().orders.unwrap();
        // Nothing is there: each is in vain, and the thread gives up.
        for _ in 0..VAIN_ORDERS {
            orders.send(0).unwrap();
        }
        let over = (0..5_000).any(|_| {
            thread::sleep(std::time::Duration::from_millis(1));
            matches!(orders.try_send(0), Err(mpsc::TrySendError::Disconnected(_)))
        });
        assert!(over);
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
