//! Which lines of a stream are asked for before its turn comes (see [`crate::prefetch`]), in the order of its fields.

use super::EgressStream;
use crate::prefetch::prefetch;

impl EgressStream {
    /// What [`Self::begin`], [`Self::put`] and [`Self::count`] look at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        self.sent.prefetch();
        prefetch(&self.formats);
        self.records.prefetch();
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_pointees(&self) {
        self.sent.prefetch_bits();
        self.records.prefetch_pointees();
    }

    /// What [`Self::handle_report_block`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch_reported(&self) {
        self.sent.prefetch();
        prefetch(&self.reports);
        prefetch(&self.reported);
        prefetch(&self.redundancy);
    }
}
