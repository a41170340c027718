//! Which lines of a stream are asked for before its turn comes (see [`crate::prefetch`]), in the order of its fields.

use super::EgressStream;
use crate::prefetch::prefetch;

impl EgressStream {
    /// What [`Self::write`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.ssrc);
        prefetch(&self.header);
        self.header.prefetch();
        self.formats.prefetch();
        prefetch(&self.marks);
        prefetch(&self.octets);
        prefetch(&self.highest);
        prefetch(&self.records);
        prefetch(&self.redundancy);
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_pointees(&self) {
        if let Some(highest) = self.highest {
            self.sent.prefetch(highest);
            self.records.prefetch(highest.plus(1));
        }
    }

    /// What [`Self::handle_report_block`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch_reported(&self) {
        prefetch(&self.ssrc);
        prefetch(&self.marks);
        prefetch(&self.highest);
        prefetch(&self.reports);
        prefetch(&self.reported);
        prefetch(&self.redundancy);
    }
}
