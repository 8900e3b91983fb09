"""Where Services and EndpointSlices come from. What leaves here is a snapshot of decoded values, never a raw object."""
