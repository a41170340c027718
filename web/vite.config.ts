import { defineConfig } from 'vite';

export default defineConfig({
  build: { outDir: 'dist', emptyOutDir: true, sourcemap: false, chunkSizeWarningLimit: 1500 },
  // `npm run dev` beside a running `chappe`: signalling and tokens come from it.
  server: { proxy: { '/rtc': { target: 'http://127.0.0.1:7880', ws: true }, '/page': 'http://127.0.0.1:7880' } },
});
