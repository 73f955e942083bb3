"""Every container and codec that the ffmpeg program writes, against its own decoder.

A case names a file and how it is written. Frames, their count, and single frames out of the middle
must be those that the program decodes.
"""

from pathlib import Path

import numpy as np
import pytest

from latte_ms.data.video_file import index_video, read_frames, read_video

from .conftest import convert, decode_by_ffmpeg, generate

H264 = "-c:v libx264 -preset veryfast -g 8"
HEVC = "-c:v libx265 -preset ultrafast -g 8 -x265-params log-level=none:pools=none"
CASES = {
    "h264.mp4": f"{H264} -pix_fmt yuv420p",
    "h264_full_range.mp4": f"{H264} -pix_fmt yuvj420p",
    "h264_422.mov": f"{H264} -pix_fmt yuv422p",
    "h264_444.mkv": f"{H264} -pix_fmt yuv444p",
    "h264_10.mp4": f"{H264} -pix_fmt yuv420p10le",
    "h264_422_10.mov": f"{H264} -pix_fmt yuv422p10le",
    "h264_444_10.mkv": f"{H264} -pix_fmt yuv444p10le",
    "h264_grey.mp4": f"{H264} -pix_fmt gray",
    "h264_rgb.mkv": "-c:v libx264rgb -preset veryfast -g 8",
    "h264_709.mp4": f"{H264} -vf scale=out_color_matrix=bt709 -pix_fmt yuv420p"
    " -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv",
    "h264_709_10.mp4": f"{H264} -vf scale=out_color_matrix=bt709 -pix_fmt yuv420p10le"
    " -colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv",
    "h264_full_10.mp4": f"{H264} -vf scale=out_range=pc -pix_fmt yuv422p10le -color_range pc",
    "h264_open.mp4": f"{H264} -x264-params open-gop=1 -bf 3",
    "h264_interlaced.ts": f"{H264} -flags +ildct+ilme -x264-params tff=1 -pix_fmt yuv420p",
    "h264_interlaced.mkv": f"{H264} -flags +ildct+ilme -pix_fmt yuv420p10le",
    "h264.flv": f"{H264} -pix_fmt yuv420p",
    "h264.ts": f"{H264} -pix_fmt yuv420p",
    "h264.avi": f"{H264} -pix_fmt yuv420p",
    "h264.3gp": f"{H264} -pix_fmt yuv420p",
    "h264_fragments.mp4": f"{H264} -movflags frag_keyframe+empty_moov",
    "h264_delayed.mp4": f"{H264} -output_ts_offset 5",
    "h264_early.mkv": f"{H264} -output_ts_offset -3 -avoid_negative_ts disabled",
    "h264_early.mp4": f"{H264} -output_ts_offset -0.4 -avoid_negative_ts disabled",
    "h264_late.ts": f"{H264} -output_ts_offset 90000",
    "h264_variable.mp4": f"{H264} -vf select='not(mod(n,3))+not(mod(n,7))' -fps_mode vfr",
    "h264_variable.mkv": f"{H264} -vf setpts='PTS+N*N/500/TB' -fps_mode vfr",
    "hevc.mp4": f"{HEVC} -pix_fmt yuv420p -tag:v hvc1",
    "hevc_10.mkv": f"{HEVC} -pix_fmt yuv420p10le",
    "hevc_444.mov": f"{HEVC} -pix_fmt yuv444p",
    "hevc_422_12.mp4": f"{HEVC} -pix_fmt yuv422p12le",
    "hevc_2020.mp4": f"{HEVC} -vf scale=out_color_matrix=bt2020nc -pix_fmt yuv420p10le"
    " -colorspace bt2020nc -color_primaries bt2020 -color_trc smpte2084",
    "hevc.ts": f"{HEVC} -pix_fmt yuv420p",
    "vp8.webm": "-c:v libvpx -b:v 200k -g 8 -auto-alt-ref 1 -lag-in-frames 8 -deadline good",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 200k -g 8 -auto-alt-ref 1 -lag-in-frames 8 -cpu-used 8",
    "vp9_10.webm": "-c:v libvpx-vp9 -b:v 200k -g 8 -pix_fmt yuv420p10le -cpu-used 8",
    "vp9_444.mp4": "-c:v libvpx-vp9 -b:v 200k -g 8 -pix_fmt yuv444p -cpu-used 8",
    "av1.mkv": "-c:v libaom-av1 -cpu-used 8 -g 8 -b:v 200k",
    "av1_10.mp4": "-c:v libsvtav1 -preset 12 -g 8 -pix_fmt yuv420p10le -svtav1-params log-level=-1",
    "av1.webm": "-c:v libsvtav1 -preset 12 -g 8 -pix_fmt yuv420p",
    "mpeg4.mp4": "-c:v mpeg4 -q:v 3 -g 8 -bf 2",
    "mpeg4.avi": "-c:v mpeg4 -q:v 3 -g 8 -bf 2",
    "mpeg4_plain.avi": "-c:v mpeg4 -q:v 3 -g 8",
    "xvid.avi": "-c:v libxvid -q:v 3 -g 8 -bf 2",
    "mpeg4_interlaced.mov": "-c:v mpeg4 -q:v 3 -g 8 -flags +ildct+ilme",
    "msmpeg4.avi": "-c:v msmpeg4 -q:v 3 -g 8",
    "msmpeg4.wmv": "-c:v msmpeg4v2 -q:v 3 -g 8 -f asf",
    "wmv1.wmv": "-c:v wmv1 -q:v 3 -g 8",
    "wmv2.wmv": "-c:v wmv2 -q:v 3 -g 8",
    "mpeg1.mpg": "-c:v mpeg1video -q:v 3 -g 8 -bf 2",
    "mpeg2.mpg": "-c:v mpeg2video -q:v 3 -g 8 -bf 2",
    "mpeg2.ts": "-c:v mpeg2video -q:v 3 -g 8 -bf 2",
    "mpeg2.vob": "-c:v mpeg2video -q:v 3 -g 8",
    "mpeg2.mxf": "-c:v mpeg2video -q:v 3 -g 8",
    "mpeg2_interlaced.mpg": "-c:v mpeg2video -q:v 3 -g 8 -flags +ildct+ilme -alternate_scan 1",
    "mpeg2_422.mkv": "-c:v mpeg2video -q:v 3 -g 8 -pix_fmt yuv422p",
    "flv1.flv": "-c:v flv -q:v 3 -g 8",
    "h263.3gp": "-c:v h263 -s 128x96 -q:v 3 -g 8",
    "h263p.avi": "-c:v h263p -q:v 3 -g 8",
    "theora.ogv": "-c:v libtheora -q:v 7 -g 8",
    "dirac.mkv": "-c:v vc2",
    "mjpeg.avi": "-c:v mjpeg -q:v 3",
    "mjpeg.mov": "-c:v mjpeg -q:v 3 -pix_fmt yuvj422p",
    "mjpeg_444.mkv": "-c:v mjpeg -q:v 3 -pix_fmt yuvj444p",
    "ljpeg.avi": "-c:v ljpeg -pix_fmt yuvj420p -strict -1",
    "jpeg2000.mov": "-c:v jpeg2000",
    "png.mov": "-c:v png",
    "png.avi": "-c:v png -pix_fmt rgba",
    "gif.gif": "",
    "apng.apng": "-f apng -plays 1",
    "prores.mov": "-c:v prores",
    "prores_4444.mov": "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le",
    "prores_interlaced.mov": "-c:v prores_ks -flags +ildct",
    "dnxhr.mov": "-vf scale=256:128,setsar=1 -c:v dnxhd -profile:v dnxhr_sq",
    "dnxhr_10.mxf": "-vf scale=256:128,setsar=1 -c:v dnxhd -profile:v dnxhr_hqx"
    " -pix_fmt yuv422p10le",
    "ffv1.mkv": "-c:v ffv1 -g 8",
    "ffv1_12.mkv": "-c:v ffv1 -pix_fmt yuv444p12le",
    "ffv1_410.mkv": "-c:v ffv1 -pix_fmt yuv410p",
    "ffvhuff.avi": "-c:v ffvhuff -pix_fmt yuv420p",
    "huffyuv.avi": "-c:v huffyuv -pix_fmt yuv422p",
    "utvideo.avi": "-c:v utvideo -pix_fmt yuv420p",
    "magicyuv.avi": "-c:v magicyuv -pix_fmt yuv420p",
    "raw.avi": "-c:v rawvideo -pix_fmt bgr24",
    "raw_yuv.avi": "-c:v rawvideo -pix_fmt yuv420p",
    "raw.mov": "-c:v rawvideo -pix_fmt uyvy422",
    "raw.nut": "-c:v rawvideo -pix_fmt yuv440p",
    "v210.mov": "-c:v v210",
    "qtrle.mov": "-c:v qtrle",
    "cinepak.mov": "-c:v cinepak -g 8",
    "svq1.mov": "-c:v svq1 -g 8",
    "rpza.mov": "-c:v rpza",
    "snow.avi": "-c:v snow -strict -2 -g 8",
    "flashsv.flv": "-c:v flashsv",
    "rv20.rm": "-c:v rv20 -g 8",
    "dv.avi": "-vf scale=720:576,setsar=1 -c:v dvvideo -pix_fmt yuv420p -frames:v 4",
    "dv.mov": "-vf scale=720:480,setsar=1 -c:v dvvideo -pix_fmt yuv411p -frames:v 4",
    "cineform.mov": "-c:v cfhd",
    "y4m.y4m": "-pix_fmt yuv420p",
    "vp8.ivf": "-c:v libvpx -b:v 200k -g 8",
    "mpeg2.wtv": "-c:v mpeg2video -q:v 3 -g 8",
    "h264.h264": f"{H264} -bf 0",
    "mpeg4.m4v": "-c:v mpeg4 -f m4v -g 8",
    "hevc_fields.mkv": f"{HEVC}:interlace=tff",
    "anamorphic.mp4": f"-vf scale=64:96,setsar=2 {H264}",
    "anamorphic_10.mkv": f"-vf scale=128:96,setsar=8/9 {H264} -pix_fmt yuv420p10le",
    "anamorphic.mpg": "-vf scale=96:96,setsar=4/3 -c:v mpeg2video -q:v 3 -g 8",
    "anamorphic_odd.avi": "-vf scale=97:95,setsar=5/3 -c:v mpeg4 -q:v 3 -g 8",
    "odd_size.mp4": f"-vf scale=126:97,setsar=1 {H264} -pix_fmt yuv444p",
    "odd_size.mkv": "-vf scale=127:95,setsar=1 -c:v ffv1 -pix_fmt yuv420p",
    "odd_width.webm": "-vf scale=127:96,setsar=1 -c:v libvpx -b:v 300k",
}


def compare(path: Path) -> None:
    """All frames of `path`, and single ones, are those of the ffmpeg program."""
    frames = read_video(path)
    expected = decode_by_ffmpeg(path, *frames.shape[1:3], "-vf", "scale=round(iw*sar):ih")
    assert len(frames) == len(expected)
    assert float(np.abs(frames.astype(int) - expected).mean()) <= 1
    index = index_video(path)
    assert index.num_frames == len(expected)
    for number in sorted({0, 1, len(frames) // 2, len(frames) - 2, len(frames) - 1}):
        same = bool((read_frames(path, [number], index)[0] == frames[number]).all())
        assert same, number


TURNS = {
    f"{angle}{'_mirrored' if mirror else ''}": ("-display_rotation", str(angle), *mirror)
    for angle in (0, 90, 180, 270)
    for mirror in ((), ("-display_hflip",))
}


@pytest.fixture(scope="module", params=["1", "4/3"])
def flat(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("flat") / "flat.mp4"
    return generate(path, *f"-vf setsar={request.param} {H264}".split())


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_turned_and_mirrored_frames(flat: Path, tmp_path: Path, turn: str, suffix: str):
    compare(convert(flat, tmp_path / f"a.{suffix}", "-c", "copy", before=TURNS[turn]))


@pytest.mark.extended
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["", ":flip=horizontal", ":flip=vertical"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_a_turn_in_the_stream_itself(tmp_path: Path, rotation: int, flip: str, pixels: str):
    """H.264 may say on its first frame how all are to be turned."""
    turn = f"h264_metadata=display_orientation=insert:rotate={rotation}{flip}"
    path = tmp_path / "a.mp4"
    compare(generate(path, *H264.split(), "-pix_fmt", pixels, "-bsf:v", turn))


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_all_frames_are_those_of_ffmpeg(name: str, tmp_path: Path):
    compare(generate(tmp_path / name, *CASES[name].split()))
