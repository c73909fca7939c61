"""DreamBooth: teach a base model one subject from a few photos.

`runs` is the service's side and imports no torch: it starts `child`, which runs `loop`, and follows it by
`messages`. `options` has every knob. What a run needs lies in its `workspace`, its `checkpoint`s among it.
"""
