#!/bin/sh
# Makes the clip that the demo's live stream loops: our own test picture and tone, 24 s of it, as twelve
# MPEG-TS segments of 2 s for HLS and as one FLV file with the same frames for HTTP-FLV.
# Needs ffmpeg with libx264 and any sans-serif font. The results are kept in the repository.
set -eu
cd "$(dirname "$0")"
rm -f seg*.ts clip.flv

seconds=24          # 24 s is a whole number of frames of both: 600 pictures, 1125 AAC frames of 1024 samples.
rate=25
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The encoded frames, once. A key frame every 2 s and nowhere else, and no B-frames, so that every segment
# starts with a picture that needs no other and decoding order is showing order. The tone is 440 Hz with a
# beep each second; a whole number of periods fits, so the loop is not heard.
ffmpeg -nostdin -loglevel error -y \
    -f lavfi -i "testsrc2=size=640x360:rate=$rate:duration=$seconds" \
    -f lavfi -i "sine=frequency=440:beep_factor=2:sample_rate=48000:duration=$seconds" \
    -vf "drawbox=x=0:y=ih-64:w=iw:h=64:color=black@0.72:t=fill,\
drawtext=font=Sans:text='Edgewater demo':x=20:y=h-44:fontsize=26:fontcolor=white,\
drawtext=font=Sans:text='%{eif\\:t\\:d\\:2} s of $seconds':x=w-tw-20:y=h-44:fontsize=26:fontcolor=white" \
    -af "volume=0.25" \
    -c:v libx264 -preset veryslow -profile:v main -pix_fmt yuv420p -crf 33 -maxrate 150k -bufsize 300k \
    -bf 0 -g $((rate * 2)) -keyint_min $((rate * 2)) -sc_threshold 0 -flags +bitexact \
    -c:a aac -b:a 32k -ac 1 \
    -map_metadata -1 -t $seconds "$work/clip.mp4"

# initial_discontinuity: the first packets of each segment say that their continuity counters start anew,
# as they do where the clip loops.
ffmpeg -nostdin -loglevel error -y -i "$work/clip.mp4" -c copy -map_metadata -1 -muxdelay 0 -muxpreload 0 \
    -f hls -hls_time 2 -hls_list_size 0 -hls_segment_options mpegts_flags=+initial_discontinuity \
    -hls_segment_filename 'seg%02d.ts' "$work/clip.m3u8"

# No duration and no file size in the metadata: the stream has no end.
ffmpeg -nostdin -loglevel error -y -i "$work/clip.mp4" -c copy -map_metadata -1 -fflags +bitexact \
    -f flv -flvflags no_duration_filesize clip.flv

cat "$work/clip.m3u8"
