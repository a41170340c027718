#!/bin/sh
# Makes the loops that publishers send: a moving test picture in three layers, four seconds of VP8 and two of H.264
# (constrained baseline, one slice a picture, parameters in front of each keyframe), and Opus.
# Needs ffmpeg with libvpx, libx264 and libopus; the results are kept in the repository, so that nobody else does.
# A keyframe every two seconds: a keyframe request jumps to the next one.
set -eu
cd "$(dirname "$0")"

picture="testsrc2=size=1280x720:rate=30,noise=alls=6:allf=t"
layer() { # name width height bitrate
    ffmpeg -hide_banner -loglevel error -y -f lavfi -i "$picture" -t 4 \
        -vf "scale=$2:$3" -pix_fmt yuv420p -c:v libvpx -deadline good -cpu-used 2 \
        -b:v "$4" -minrate "$4" -maxrate "$4" -bufsize "$4" -g 60 -keyint_min 60 -auto-alt-ref 0 -lag-in-frames 0 \
        -error-resilient 1 -fflags +bitexact "$1.ivf"
}
layer low 320 180 120k
layer mid 640 360 450k
layer high 1280 720 1500k
avc() { # name width height bitrate
    ffmpeg -hide_banner -loglevel error -y -f lavfi -i "$picture" -t 2 \
        -vf "scale=$2:$3" -pix_fmt yuv420p -c:v libx264 -profile:v baseline -level 3.1 -preset slow \
        -b:v "$4" -maxrate "$4" -bufsize "$4" -g 60 -keyint_min 60 -sc_threshold 0 -bf 0 \
        -x264-params "slices=1:sliced-threads=0:threads=1:repeat-headers=1:force-cfr=1" \
        -bsf:v filter_units=remove_types=6 -fflags +bitexact -f h264 "$1.h264"
}
avc low 320 180 120k
avc mid 640 360 450k
avc high 1280 720 1500k
ffmpeg -hide_banner -loglevel error -y -f lavfi -i "sine=frequency=220:beep_factor=4,aformat=channel_layouts=mono" -t 4 \
    -c:a libopus -b:a 32k -vbr off -frame_duration 20 -application voip -fflags +bitexact tone.ogg
ls -l ./*.ivf ./*.h264 ./*.ogg
