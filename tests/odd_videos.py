"""Videos that are not as their headers say, or not as usual, from small good ones."""

import numpy as np

X264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:threads=1"}


def rewrite(source, target, change=None, *, more=(), options=None):
    """The packets of ``source``, then of ``more``, as one stream; ``change(i, packet)`` first."""
    import av

    with av.open(str(target), "w", options=options or {}) as new:
        stream, position = None, 0
        for path in (source, *more):
            with av.open(str(path)) as old:
                stream = stream or new.add_stream_from_template(old.streams.video[0])
                after = position
                for packet in old.demux(old.streams.video[0]):
                    if packet.size:
                        step = packet.duration or 1
                        packet = (change(position, packet) if change else None) or packet
                        packet.pts += after * step
                        packet.dts += after * step
                        packet.stream = stream
                        new.mux(packet)
                        position += 1
    return target


def marked_as_key(i, packet):
    packet.is_keyframe = True


def resized(path, codec, size, count=20, pix_fmt="yuv420p", options=None):
    """A video of plain frames whose size is (height, width)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        for i in range(count):
            pixels = np.full((*size, 3), 40 + i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_matrix(path, a, b, c, d):
    """Writes the display matrix of an MP4 file's track: fixed point, 16 bits of fraction."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == (1 << 16).to_bytes(4, "big")
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        data[at + place : at + place + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def turning(i, packet):
    """An SEI message that the first picture is turned by 90 degrees, in front of it."""
    import av

    if i:
        return None
    message = bytes([6, 47, 3]) + (0x4000 << 5 | 1 << 4).to_bytes(3, "big") + b"\x80"
    new = av.Packet(len(message).to_bytes(4, "big") + message + bytes(packet))
    new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
    new.is_keyframe = True
    return new


def with_cover(path, *, video=None):
    """Sound with a cover picture, and the stream of ``video`` behind it where there is one."""
    import av

    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 640, 640, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        old = av.open(str(video)) if video else None
        stream = old and container.add_stream_from_template(old.streams.video[0])
        frame = av.VideoFrame.from_ndarray(np.full((640, 640, 3), 90, np.uint8), format="rgb24")
        container.mux([*cover.encode(frame), *cover.encode(None)])
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
        for packet in old.demux(old.streams.video[0]) if old else ():
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return path
