//! Which lines of a stream are asked for before its turn comes (see [`crate::prefetch`]), in the order of its fields.

use super::EgressStream;
use crate::prefetch::prefetch;

impl EgressStream {
    /// What [`Self::begin`], [`Self::put`] and [`Self::count`] look at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.highest);
        prefetch(&self.header);
        self.records.prefetch();
        prefetch(&self.formats);
        prefetch(&self.sent);
    }

    /// What depends on that, once it is here.
    #[inline(always)]
    pub(crate) fn prefetch_pointees(&self) {
        if let Some(highest) = self.highest {
            self.sent.prefetch(highest);
        }
        self.records.prefetch_pointees();
    }

    /// What [`Self::handle_report_block`] looks at.
    #[inline(always)]
    pub(crate) fn prefetch_reported(&self) {
        prefetch(&self.highest);
        prefetch(&self.reports);
        prefetch(&self.reported);
    }
}
